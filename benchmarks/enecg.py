"""What kept features save an ensemble of experts: `python -m benchmarks.enecg`.

A trial of `method: enecg` of 5 epochs at 1,000 training records, with the experts' features from the cache and with the
experts run anew, through the shared trainer on one thread, as a trial is. The experts are of their smallest sizes and
have random weights, which has no effect on the time; of published sizes the cache saves more. The pass that fills the
cache, once for all trials, is a figure of its own, with its memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.dataset import Dataset, LabelSet, Signal, Source
from data.leads import LEADS_12
from data.memory import MemorySplit
from trainables.enecg import ENECG, EnecgConfig, frozen_expert
from trainables.expert_features import expert_function
from trainables.features import FeatureCache
from trainables.memory import PeakMemory
from trainables.plain_trial import PlainTrial

SIGNAL: Final = Signal(LEADS_12, 100.0, 1_000)
EXPERTS: Final = (
    {"kind": "ecg_fm", "size": "tiny"},
    {"kind": "moment", "size": "tiny"},
    {"kind": "tempo", "size": "tiny"},
    {"kind": "dlinear"},
    {"kind": "timesnet", "size": "tiny"},
)
LEAST_SPEED_UP: Final = 50.0
EPOCHS: Final = 5
CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class Cost:
    """Of one trial."""

    trial_s: float
    peak_bytes: float
    process_bytes: float


@dataclass(frozen=True)
class Pass:
    """Of the experts over all records, once."""

    expert_s: tuple[float, ...]
    peak_bytes: float
    process_bytes: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="enecg-") as folder:
        dataset = build_dataset(options.records, Path(folder))
        _run("off", build_dataset(4 * options.batch_size, Path(folder) / "warm-up"), options)
        filled = fill_cache(dataset)
        kept = [_run("auto", dataset, options) for _ in range(options.repeats)]
        anew = [_run("off", dataset, options) for _ in range(options.repeats)]
    return conclude(_result(options, filled, kept, anew), options)


def build_dataset(n_records: int, folder: Path) -> Dataset:
    """Build records of noise with a binary label, a tenth of them for validation; values do not change the time."""
    label_set = LabelSet("noise", "binary", ("noise",))
    train, val = (_split(n, seed) for seed, n in enumerate((n_records, max(8, n_records // 10))))
    return Dataset(SIGNAL, label_set, train, val, source=Source(folder / "noise", "noise", ""))


def fill_cache(dataset: Dataset) -> Pass:
    """Run every expert over all records, in this process."""
    assert dataset.source is not None
    cache, times_s = FeatureCache.beside(dataset.source), []
    config = _config("auto", batch_size=64)
    functions = [expert_function(each.kind, frozen_expert(each, SIGNAL), "fp32", CPU) for each in config.experts]
    with PeakMemory(CPU) as memory:
        for function in functions:
            start_s = time.perf_counter()
            with memory.counting(function.name):
                for split in (dataset.train, dataset.val):
                    cache.get(function, split, dataset.source)
            times_s.append(time.perf_counter() - start_s)
        return Pass(tuple(times_s), memory.peak_bytes, memory.process_peak_bytes)


def _run(feature_cache: str, dataset: Dataset, options: argparse.Namespace) -> Cost:
    """Train for `EPOCHS` in this process."""
    trial = PlainTrial(0)
    start_s = time.perf_counter()
    ENECG.train(_config(feature_cache, options.batch_size), dataset, trial)
    trial_s = time.perf_counter() - start_s
    last = trial.reports[EPOCHS]
    return Cost(trial_s, last["peak_memory_bytes"], last["process_peak_bytes"])


def _config(feature_cache: str, batch_size: int) -> EnecgConfig:
    params: dict[str, Any] = {
        "experts": EXPERTS, "feature_cache": feature_cache, "batch_size": batch_size, "epochs": EPOCHS
    }  # fmt: skip
    return EnecgConfig.model_validate(params)


def _split(n_records: int, seed: int) -> MemorySplit:
    rng = np.random.default_rng(seed)
    ecg_NLT = rng.standard_normal((n_records, len(SIGNAL.lead_names), SIGNAL.n_timesteps), dtype=np.float32)
    labels_N1 = np.arange(n_records, dtype=np.float32)[:, None] % 2
    ids = np.array([f"{seed}-{number}" for number in range(n_records)])
    return MemorySplit(ecg_NLT, np.full(n_records, SIGNAL.n_timesteps, np.int32), labels_N1, ids, ids)


def _result(options: argparse.Namespace, filled: Pass, kept: Sequence[Cost], anew: Sequence[Cost]) -> Result:
    speed_up = Figure("trial: anew / kept", "times", _ratios(anew, kept))
    names = _config("auto", options.batch_size).expert_names
    passes = [
        Figure(f"expert pass, {name}", "s", (seconds,)) for name, seconds in zip(names, filled.expert_s, strict=True)
    ]
    figures = (
        *_figures("features kept", kept),
        *_figures("experts anew", anew),
        *passes,
        Figure("expert pass, all", "s", (sum(filled.expert_s),)),
        Figure("expert pass, peak of tensors", "MiB", (filled.peak_bytes / 2**20,)),
        Figure("expert pass, peak of the process", "MiB", (filled.process_bytes / 2**20,)),
        speed_up,
    )
    title = (
        f"enecg, {len(names)} experts, {EPOCHS} epochs, {options.records:,} training records of 12 leads x "
        f"{SIGNAL.n_timesteps} timesteps, batches of {options.batch_size}, one thread"
    )
    return Result(title, read_machine(), figures, (Bar(speed_up, ">=", LEAST_SPEED_UP),))


def _figures(name: str, costs: Sequence[Cost]) -> tuple[Figure, Figure, Figure]:
    return (
        Figure(f"{name}, a trial", "s", tuple(cost.trial_s for cost in costs)),
        Figure(f"{name}, peak of tensors", "MiB", tuple(cost.peak_bytes / 2**20 for cost in costs)),
        Figure(f"{name}, peak of the process", "MiB", tuple(cost.process_bytes / 2**20 for cost in costs)),
    )


def _ratios(anew: Sequence[Cost], kept: Sequence[Cost]) -> tuple[float, ...]:
    return tuple(slow.trial_s / fast.trial_s for slow, fast in zip(anew, kept, strict=True))


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enecg", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000, help="training records (1,000)")
    parser.add_argument("--batch-size", type=int, default=64, help="records of a step (64)")
    parser.add_argument("--repeats", type=int, default=3, help="measured trials of each contender (3)")
    add_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
