"""Early stopping on the validation loss: when it stands still, or only when it stands still and over-fits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainables.config import LoopConfig, StoppingRule


@dataclass
class EarlyStopping:
    """Whether training should end. `best`, `stale` and `stopped` are its state, kept in checkpoints.

    plateau: `patience` epochs in a row without a loss below best - min_delta.
    plateau_and_gap (the ECM search, github.com/JokerJostar/ECM-ATML_loongarch64): and the training loss lies more
    than `min_gap` below the validation loss. A model that stands still without over-fitting trains on.
    """

    rule: StoppingRule
    patience: int
    min_delta: float
    min_gap: float
    best: float = math.inf
    stale: int = 0
    stopped: bool = False

    @staticmethod
    def from_config(config: LoopConfig) -> EarlyStopping:
        return EarlyStopping(config.early_stopping, config.patience, config.min_delta, config.min_gap)

    def end_epoch(self, train_loss: float, val_loss: float) -> None:
        """Take the losses of an epoch into account, and set `stopped`."""
        if val_loss < self.best - self.min_delta:
            self.best, self.stale = val_loss, 0
        else:
            self.stale += 1
        plateau = self.stale >= self.patience
        gap = train_loss < val_loss - self.min_gap
        self.stopped = {"none": False, "plateau": plateau, "plateau_and_gap": plateau and gap}[self.rule]

    def state(self) -> dict[str, float | bool]:
        return {"best": self.best, "stale": self.stale, "stopped": self.stopped}

    def load(self, state: dict[str, float | bool]) -> None:
        self.best, self.stale, self.stopped = float(state["best"]), int(state["stale"]), bool(state["stopped"])
