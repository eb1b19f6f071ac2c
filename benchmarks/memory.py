"""What a training step of AdaGrad-Fusion holds in memory: `python -m benchmarks.memory`.

Full fine-tuning, LoRA, zeroth order and fused gradients on the medium backbone (50.5 M parameters, 18 classes) with
records of 12 x 6,144, all at one batch size. Peaks are those of `trainables.memory.LiveTensors` over two steps with
AdamW, weights and the batch included. A batch of 128 takes more than many a machine has, so it runs on fake tensors,
which have shapes but no values; real steps at a smaller batch must give the same peaks, and give the seconds a step.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, get_args

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from trainables.adagrad_fusion import AdagradFusionConfig, build_model
from trainables.conv_transformer import Size
from trainables.fused_step import FusedStep
from trainables.fusion_objective import Objective
from trainables.losses import build_criterion
from trainables.memory import LiveTensors, ProcessMemory
from trainables.optimisation import build_optimizer
from trainables.plain_trial import PlainTrial

BATCH: Final = 128
N_STEPS: Final = 2  # the second one has the optimiser's averages
SIGNAL: Final = Signal(LEADS_12, 500.0, 6144)
LABEL_SET: Final = LabelSet("g12ec", "multilabel", tuple(f"c{number}" for number in range(18)))

FULL: Final = "full fine-tuning"
FUSED: Final = "fused, bp_batch 2"
UNCHUNKED: Final = "fused, bp_batch 2, one chunk"
WAYS: Final[Mapping[str, Mapping[str, Any]]] = {
    FULL: {"tuning": "full"},
    "LoRA": {"tuning": "lora"},
    "zeroth order": {"tuning": "zo"},
    FUSED: {"bp_batch": 2},
    "fused, bp_batch 4": {"bp_batch": 4},
    "fused, bp_batch 8": {"bp_batch": 8},
    UNCHUNKED: {"bp_batch": 2, "zo_chunk": BATCH},
}
LEAST_RATIO: Final = 6.34  # H-Tuning's own figure (Zhou et al. 2025)
LARGEST_DEVIATION: Final = 0.02  # of a real peak from the fake one


class Training:
    """One way's network, step and optimiser, with a batch of random records."""

    def __init__(self, params: Mapping[str, Any], size: Size, batch_size: int) -> None:
        config = AdagradFusionConfig(size=size, batch_size=batch_size, **params)
        self.network = build_model(config, SIGNAL, LABEL_SET)
        criterion = build_criterion(config, LABEL_SET, np.zeros((1, LABEL_SET.n_outputs), np.float32))
        objective = Objective(config, criterion, None, None, None)
        self.step = FusedStep(self.network, objective, config, N_STEPS, PlainTrial(0))
        self.optimizer: Optimizer = build_optimizer(config, self.network)
        self.ecg_BLT = torch.randn(batch_size, len(SIGNAL.lead_names), SIGNAL.n_timesteps)
        self.targets_BK = torch.randint(2, (batch_size, LABEL_SET.n_outputs)).float()

    def train(self, number: int) -> None:
        self.optimizer.zero_grad()
        self.step.gradient(self.ecg_BLT, self.targets_BK, number)
        self.optimizer.step()


class RealRun(NamedTuple):
    """What real steps of one way have shown."""

    peak_bytes: int
    process_bytes: int
    trained: int
    step_s: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    size, small = options.size, options.real_batch
    peaks = {name: fake_peak(params, size, BATCH) for name, params in WAYS.items()}
    figures = [Figure(f"{name}, batch {BATCH}", "MB", (peak / 1e6,)) for name, peak in peaks.items()]
    ratios = {name: Figure(f"{FULL} / {name}", "", (peaks[FULL] / peaks[name],)) for name in WAYS if name != FULL}
    agreements = []
    for name, params in WAYS.items():
        found = run(params, size, small, options.repeats)
        agreements.append(found.peak_bytes / fake_peak(params, size, small))
        figures += _figures(f"{name}, batch {small}", found)
    lowest, highest = (
        Figure(f"real / fake peak, batch {small}, {which}", "", (value,))
        for which, value in (("lowest", min(agreements)), ("highest", max(agreements)))
    )
    bars = (
        Bar(ratios[FUSED], ">=", LEAST_RATIO),
        Bar(lowest, ">=", 1 - LARGEST_DEVIATION),
        Bar(highest, "<=", 1 + LARGEST_DEVIATION),
    )
    title = f"AdaGrad-Fusion's step: {size} backbone, 12 x {SIGNAL.n_timesteps:,}, {LABEL_SET.n_outputs} classes"
    return conclude(Result(title, machine, (*figures, *ratios.values(), lowest, highest), bars), options)


def fake_peak(params: Mapping[str, Any], size: Size, batch_size: int) -> int:
    """Return the peak of a way's tensors, from their shapes alone."""
    with FakeTensorMode(), LiveTensors() as meter:
        training = Training(params, size, batch_size)
        for number in range(N_STEPS):
            training.train(number)
    return meter.peak_bytes


def run(params: Mapping[str, Any], size: Size, batch_size: int, repeats: int) -> RealRun:
    """Take real steps: first with both meters on, then `repeats` on the clock."""
    gc.collect()
    with ProcessMemory() as process:
        with LiveTensors() as meter:
            training = Training(params, size, batch_size)
            for number in range(N_STEPS):
                training.train(number)
        process_bytes = process.peak_bytes
    step_s = []
    for _ in range(repeats):
        begin_s = time.perf_counter()
        training.train(0)
        step_s.append(time.perf_counter() - begin_s)
    trained = sum(parameter.numel() for parameter in training.network.parameters() if parameter.requires_grad)
    return RealRun(meter.peak_bytes, process_bytes, trained, tuple(step_s))


def _figures(name: str, found: RealRun) -> list[Figure]:
    return [
        Figure(name, "MB", (found.peak_bytes / 1e6,), f"process: {found.process_bytes / 1e6:,.0f} MB"),
        Figure(f"{name}, time", "s/step", found.step_s),
        Figure(f"{name}, trained", "parameters", (float(found.trained),)),
    ]


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="steps on the clock (default: 3)")
    parser.add_argument("--real-batch", type=int, default=8, help="records of a real step (default: 8)")
    parser.add_argument("--size", default="medium", choices=get_args(Size), help="of the backbone (default: medium)")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.real_batch < 8:
        parser.error(f"--repeats >= 1 and --real-batch >= 8 must hold, got {options.repeats} and {options.real_batch}")
    return options


if __name__ == "__main__":
    sys.exit(main())
