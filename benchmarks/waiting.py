"""A method whose trials wait for one another, then look at their process; its state is numpy's: it needs no torch."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import psutil
from pydantic import Field

from data.dataset import Dataset, LabelSet, Signal
from trainables.config import TrainConfig
from trainables.method import Method
from trainables.trial import Trial

if TYPE_CHECKING:
    from torch import nn

METRIC: Final = "val/auroc"
PROCESS_BYTES, HAS_TORCH = "process_bytes", "has_torch"
PATIENCE_S: Final = 600.0


class WaitingConfig(TrainConfig):
    """The parameters of `method: waiting`."""

    x: float = Field(0.5, ge=0, le=1, description="What a trial reports.")
    n_at_once: int = Field(1, ge=1, description="Trials that wait for one another.")
    meeting_place: str = Field(description="Folder in which each leaves a mark.")


def build_model(config: WaitingConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the smallest model that can be saved and exported, ecg_BLT -> logits_BK."""
    from torch import nn  # the driver's part; a trial's process has no torch

    return nn.Sequential(nn.Flatten(), nn.Linear(len(signal.lead_names) * signal.n_timesteps, label_set.n_outputs))


def train(config: WaitingConfig, dataset: Dataset, trial: Trial) -> None:
    """Wait until all trials are there, and report what this process takes.

    Raises:
        TimeoutError: they are not all there in time.
    """
    _meet(Path(config.meeting_place), str(trial.seed), config.n_at_once)
    n_inputs = len(dataset.signal.lead_names) * dataset.signal.n_timesteps
    n_outputs = dataset.label_set.n_outputs
    model = {"1.weight": np.zeros((n_outputs, n_inputs), np.float32), "1.bias": np.zeros(n_outputs, np.float32)}
    metrics = {
        METRIC: config.x,
        PROCESS_BYTES: float(psutil.Process().memory_full_info().uss),  # what would be free without the process
        HAS_TORCH: float("torch" in sys.modules),
    }
    trial.report(1, metrics, lambda: {"model": model, "thresholds": [0.5] * n_outputs})


def _meet(place: Path, name: str, n_at_once: int) -> None:
    (place / name).touch()
    end_s = time.monotonic() + PATIENCE_S
    while sum(1 for _ in place.iterdir()) < n_at_once:
        if time.monotonic() > end_s:
            raise TimeoutError(f"after {PATIENCE_S:g} s there are not yet {n_at_once} trials at once")
        time.sleep(0.2)


WAITING = Method("waiting", WaitingConfig, build_model, train, lambda task: frozenset({METRIC}), needs_torch=False)
WAITING_WITH_TORCH = replace(WAITING, name="waiting_with_torch", needs_torch=True)
