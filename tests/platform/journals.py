"""Journals of sweeps that never ran, for tests of what reads a journal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, distribution_to_json

from platform.sweeps.journal import FILE_NAME, Event

START_S = 1_790_000_000.0
EPOCHS, RUNGS = 27, (3, 9)
TRACEBACK = 'Traceback (most recent call last):\n  File "net.py", line 7, in forward\nRuntimeError: <b>size</b> 12 vs 8'

MODEL = CategoricalDistribution(["xresnet1d18", "cnn"])
LR = FloatDistribution(1e-4, 1e-2, log=True)
DROPOUT = FloatDistribution(0.0, 0.5)
CHANNELS = CategoricalDistribution([16, 32, 64])


def write_journal(folder: Path, events: Sequence[Event]) -> Path:
    """Write `events` as the journal in `folder`, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    path.write_text("".join(event.to_line() for event in events), encoding="utf-8")
    return path


def append_events(folder: Path, events: Sequence[Event]) -> None:
    """Append `events` to the journal in `folder`."""
    with (folder / FILE_NAME).open("a", encoding="utf-8") as file:
        file.writelines(event.to_line() for event in events)


def finished_sweep(n_trials: int, seed: int = 18) -> list[Event]:
    """Return the events of a sweep of ASHA, one trial after the other, every tenth failed, tested and closed.

    The best value falls with the distance of the learning rate from 1e-3, and the CNN is a bit worse.
    """
    generator = np.random.default_rng(seed)
    events = [Event("opened", START_S, body={"resumed": False})]
    bests: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    for number in range(n_trials):
        events += _trial(number, events[-1].time_s, bests, generator)
    end_s = events[-1].time_s
    metrics = {"auroc": 0.912, "f1": 0.71}
    events.append(Event("tested", end_s + 1, "t0000", {"metrics": metrics, "intervals": {"auroc": [0.9, 0.92]}}))
    events.append(Event("closed", end_s + 2, body={"reason": "done", "metrics": {"best/val/auroc": 0.93}}))
    return events


def _trial(number: int, now_s: float, bests: dict[int, list[float]], generator: np.random.Generator) -> Iterator[Event]:
    trial = f"t{number:04d}"
    sampled = _draw(generator)
    static = {"parameters": 1000.0 + 10 * number, "onnx_bytes": 4e4 + 40 * number}
    yield Event("proposed", now_s + 0.1, trial, _proposal(number, sampled, static))
    yield Event("started", now_s + 0.2, trial, {"attempt": 1})
    state, now_s = "COMPLETED", now_s + 0.2
    top = 0.93 - 0.06 * abs(math.log10(float(sampled["lr"])) + 3) - 0.02 * (sampled["model"] == "cnn")
    for epoch in range(1, EPOCHS + 1):
        now_s += 0.5
        if number % 10 == 6 and epoch == 3:
            yield Event("ended", now_s, trial, {"state": "FAILED", "error": TRACEBACK})
            return
        auroc = min(1.0, 0.5 + (top - 0.5) * (1 - math.exp(-epoch / 5)) + 0.01 * generator.standard_normal())
        metrics = {"val/auroc": auroc, "train/loss": 1.4 - auroc, "peak_memory_bytes": 2e8 + 1e5 * number}
        yield Event("reported", now_s, trial, {"epoch": epoch, "metrics": metrics})
        if epoch in bests:
            bests[epoch].append(auroc)
            if auroc < float(np.quantile(bests[epoch], 2 / 3)):
                state = "STOPPED"
                break
    constraints = {"onnx_bytes <= 4e6": static["onnx_bytes"] - 4e6}
    yield Event("ended", now_s, trial, {"state": state, "constraints": constraints})


def _draw(generator: np.random.Generator) -> dict[str, str | float | int]:
    sampled: dict[str, str | float | int] = {
        "model": str(generator.choice(["xresnet1d18", "cnn"])),
        "lr": float(10 ** generator.uniform(-4, -2)),
        "dropout": float(generator.uniform(0, 0.5)),
    }
    if sampled["model"] == "cnn":
        sampled["channels"] = int(generator.choice([16, 32, 64]))
    return sampled


def _proposal(number: int, sampled: dict[str, str | float | int], static: dict[str, float]) -> dict[str, object]:
    space: dict[str, BaseDistribution] = {"model": MODEL, "lr": LR, "dropout": DROPOUT, "channels": CHANNELS}
    return {
        "number": number,
        "params": {**sampled, "epochs": EPOCHS, "batch_size": 64},
        "sampled": sampled,
        "distributions": {name: distribution_to_json(space[name]) for name in sampled},
        "static": static,
    }
