"""What experts cost on this machine: time a record, memory and parameters."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from data.dataset import Signal, Split
from trainables.enecg import EnecgConfig, frozen_expert
from trainables.experts.expert import Expert
from trainables.memory import PeakMemory
from trainables.windows import window_timesteps

BATCH_RECORDS: Final = 16
REPEATS: Final = 3


@dataclass(frozen=True)
class ExpertCost:
    """Of one expert.

    Attributes:
        ms: of one record, among `BATCH_RECORDS` at once; the median of some passes.
        peak_bytes: of the tensors of such a pass, its weights included.
    """

    name: str
    n_parameters: int
    ms: float
    peak_bytes: int


def measure_experts(config: EnecgConfig, signal: Signal, split: Split, device: torch.device) -> list[ExpertCost]:
    """Run every expert on the first records of a split."""
    batch = next(iter(split.batches(BATCH_RECORDS)))
    ecg_BLT = torch.from_numpy(batch.ecg_BLT[:, :, : window_timesteps(config, signal)]).to(device)
    seen = Signal(signal.lead_names, signal.fs_hz, ecg_BLT.shape[2])
    experts = [frozen_expert(each, seen).to(device) for each in config.experts]
    return [_measure(name, each, ecg_BLT) for name, each in zip(config.expert_names, experts, strict=True)]


@torch.inference_mode()
def _measure(name: str, expert: Expert, ecg_BLT: Tensor) -> ExpertCost:
    held = (*expert.parameters(), *expert.buffers())
    with PeakMemory(ecg_BLT.device, held=held) as memory:
        with memory.counting("pass"):
            expert(ecg_BLT)
        peak_bytes = memory.peak_bytes
    times_s = [_time_s(expert, ecg_BLT) for _ in range(REPEATS)]
    n_parameters = sum(parameter.numel() for parameter in expert.parameters())
    return ExpertCost(name, n_parameters, 1000 * statistics.median(times_s) / len(ecg_BLT), peak_bytes)


def _time_s(expert: Expert, ecg_BLT: Tensor) -> float:
    start_s = time.perf_counter()
    expert(ecg_BLT).cpu()  # waits for a GPU
    return time.perf_counter() - start_s
