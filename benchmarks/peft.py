"""What a step of fine-tuning costs: `python -m benchmarks.peft`.

Seconds and peak memory of a training step for full fine-tuning, LoRA, bottleneck adapters and a linear probe, with and
without the features that `trainables.features` keeps of the frozen part, at equal batches. Each is a plain run of
`method: peft` through the shared trainer, as a trial is, on one thread: a step's time is an epoch's, divided by its
steps; the validation split is one batch, and counts as a step. Weights are random, which has no effect on the time.
The contenders take turns. Features are computed before the first repeat; how long that takes is a figure of its own.
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
from data.memory import MemorySplit
from trainables.methods import METHODS
from trainables.plain_trial import PlainTrial

SIGNAL: Final = Signal(("II",), 100.0, 600)  # a row of df_segment2.csv
RESAMPLE: Final = {"wav2vec2": 16.0, "hubert": 16.0, "ecg_fm": 1.0}
LEAST_SPEED_UP: Final = 20.0
EPOCHS: Final = 3  # the first one warms up, and is left out


@dataclass(frozen=True)
class Contender:
    """One way to tune, with or without kept features."""

    label: str
    tuning: str
    feature_cache: str

    @property
    def name(self) -> str:
        return f"{self.label}, {'features kept' if self.feature_cache == 'auto' else 'features anew'}"


PROBE_ANEW: Final = Contender("linear probe", "linear_probe", "off")
PROBE_KEPT: Final = Contender("linear probe", "linear_probe", "auto")
CONTENDERS: Final = (
    Contender("full fine-tuning", "full", "off"),  # nothing of it is frozen
    Contender("LoRA", "lora", "off"),
    Contender("LoRA", "lora", "auto"),
    Contender("adapters", "houlsby", "off"),
    Contender("adapters", "houlsby", "auto"),
    Contender("last layer", "last_layers", "off"),
    Contender("last layer", "last_layers", "auto"),
    PROBE_ANEW,
    PROBE_KEPT,
)


@dataclass(frozen=True)
class Cost:
    """Of one run: medians over its epochs, and the time before the first of them."""

    epoch_s: float
    step_s: float
    peak_bytes: float
    begin_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    torch.set_num_threads(1)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="peft-") as folder:
        dataset = build_dataset(options, Path(folder))
        first = {contender: measure(contender, dataset, options) for contender in CONTENDERS}
        costs = [{each: measure(each, dataset, options) for each in CONTENDERS} for _ in range(options.repeats)]
    speed_up = Figure(
        "linear probe's epoch: anew / kept",
        "times",
        tuple(c[PROBE_ANEW].epoch_s / c[PROBE_KEPT].epoch_s for c in costs),
    )
    once = Figure("linear probe's features, computed once", "s", (first[PROBE_KEPT].begin_s,))
    figures = (*(figure for each in CONTENDERS for figure in _figures(each, costs)), once, speed_up)
    title = (
        f"{options.backbone} {options.size}, batches of {options.batch_size} x {SIGNAL.n_timesteps} timesteps "
        f"(resampled x {RESAMPLE[options.backbone]:g}), {options.device}"
    )
    return conclude(Result(title, machine, figures, (Bar(speed_up, ">=", LEAST_SPEED_UP),)), options)


def build_dataset(options: argparse.Namespace, folder: Path) -> Dataset:
    """Build records of noise with a binary label; values have no effect on the time."""
    label_set = LabelSet("noise", "binary", ("noise",))
    train, val = (_split(n, seed) for seed, n in enumerate((options.records, options.batch_size)))
    return Dataset(SIGNAL, label_set, train, val, source=Source(folder / "noise", "noise", ""))


def measure(contender: Contender, dataset: Dataset, options: argparse.Namespace) -> Cost:
    """Train for some epochs in this process."""
    method = METHODS["peft"]
    params: dict[str, Any] = {
        "backbone": options.backbone,
        "size": options.size,
        "resample_factor": RESAMPLE[options.backbone],
        "batch_size": options.batch_size,
        "epochs": EPOCHS,
        "tuning": contender.tuning,
        "feature_cache": contender.feature_cache,
    }
    trial = PlainTrial(0, device=options.device)
    begin_s = time.perf_counter()
    method.train(method.parse_config(params), dataset, trial)
    wall_s = time.perf_counter() - begin_s
    reports = list(trial.reports.values())
    epoch_s = float(np.median([report["epoch_s"] for report in reports[1:]]))
    n_steps = -(-dataset.train.n_records // options.batch_size) + 1
    before_s = wall_s - sum(report["epoch_s"] for report in reports)
    return Cost(epoch_s, epoch_s / n_steps, reports[-1]["peak_memory_bytes"], before_s)


def _split(n_records: int, seed: int) -> MemorySplit:
    rng = np.random.default_rng(seed)
    ecg_NLT = rng.standard_normal((n_records, len(SIGNAL.lead_names), SIGNAL.n_timesteps), dtype=np.float32)
    labels_N1 = np.arange(n_records, dtype=np.float32)[:, None] % 2
    ids = np.array([f"{seed}-{number}" for number in range(n_records)])
    return MemorySplit(ecg_NLT, np.full(n_records, SIGNAL.n_timesteps, np.int32), labels_N1, ids, ids)


def _figures(contender: Contender, costs: Sequence[dict[Contender, Cost]]) -> tuple[Figure, Figure]:
    steps = tuple(1e3 * cost[contender].step_s for cost in costs)
    peaks = tuple(cost[contender].peak_bytes / 2**20 for cost in costs)
    return Figure(f"{contender.name}, a step", "ms", steps), Figure(f"{contender.name}, peak memory", "MiB", peaks)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peft", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="wav2vec2", choices=sorted(RESAMPLE))
    parser.add_argument("--size", default="small", choices=("tiny", "small", "base"))
    parser.add_argument("--batch-size", type=int, default=16, help="records of a step (16)")
    parser.add_argument("--records", type=int, default=128, help="training records of an epoch (128)")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each contender (3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add_options(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
