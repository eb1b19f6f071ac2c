"""HuBERT-ECG's dynamic regularisation: more weight decay and dropout while the validation loss stands still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from trainables.pretraining.config import PretrainConfig

DECAY_FACTOR = 5.0
DROPOUT_STEP = 0.05
MOST_DROPOUT = 0.5
STEPS_A_PATIENCE = 2


@dataclass
class Regularisation:
    """The strength of decay and dropout, in steps above what the configuration says."""

    config: PretrainConfig
    level: int = 0
    best: float = math.inf
    stale: int = 0

    def end_epoch(self, val_loss: float) -> None:
        """Take an epoch's validation loss into account."""
        if not self.config.dynamic_regularisation:
            return
        if val_loss < self.best - self.config.min_delta:
            self.best, self.stale, self.level = val_loss, 0, max(0, self.level - 1)
            return
        self.stale += 1
        if self.stale % max(1, self.config.patience // STEPS_A_PATIENCE) == 0:
            self.level += 1

    @property
    def weight_decay(self) -> float:
        return self.config.weight_decay * DECAY_FACTOR**self.level

    @property
    def dropout(self) -> float:
        return max(self.config.dropout, min(MOST_DROPOUT, self.config.dropout + DROPOUT_STEP * self.level))

    def apply(self, model: Any, optimizer: Optimizer) -> None:
        """Set them in every dropout of a `PretrainModel`, and wherever the optimiser decays."""
        if not self.config.dynamic_regularisation:
            return
        model.set_dropout(self.dropout)
        for group in optimizer.param_groups:
            if group["weight_decay"]:
                group["weight_decay"] = self.weight_decay

    def state(self) -> dict[str, float]:
        return {"level": self.level, "best": self.best, "stale": self.stale}

    def load(self, state: dict[str, float]) -> None:
        self.level, self.best, self.stale = int(state["level"]), float(state["best"]), int(state["stale"])
