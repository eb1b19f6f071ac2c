"""A trial without a sweep: for tests, for single runs, and to see what a method does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from trainables.checkpoint import load_checkpoint, save_checkpoint
from trainables.trial import State, TrialStopped

CHECKPOINT_FILE = "last.ckpt"


class PlainTrial:
    """`trainables.trial.Trial` in a plain process: keeps the reports, and checkpoints where it has a folder.

    Args:
        seed: every random number of the trial follows from it.
        folder: where the last checkpoint is kept, and restored from; None: nowhere.
        stop_after: the epoch after whose report the trial is stopped, as a scheduler would.
    """

    def __init__(
        self,
        seed: int,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        *,
        stop_after: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.device = torch.device(device)
        self.reports: dict[int, dict[str, float]] = {}
        self._folder, self._stop_after = folder, stop_after

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} after epoch {epoch}")
        self.reports[epoch] = {name: float(value) for name, value in metrics.items()}
        if self._folder is not None and self.rank == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            save_checkpoint(self._folder / CHECKPOINT_FILE, state())
        if epoch == self._stop_after:
            raise TrialStopped

    def restore(self) -> State | None:
        if self._folder is None or not (self._folder / CHECKPOINT_FILE).exists():
            return None
        return load_checkpoint(self._folder / CHECKPOINT_FILE)
