"""How a method takes part in a step of the shared trainer.

B: records of a rank's share of a batch, L: leads, T: timesteps, K: outputs, J: those and further columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.losses import Criterion
from trainables.trial import State


class Step(ABC):
    """Finds the gradient that an optimiser step follows: `trainables.back_propagation`, or a method's own.

    Every rank has its own, and all must come to the same. What is not overridden adds nothing.
    """

    @abstractmethod
    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        """Put the gradient of the mean loss over all ranks' records into `.grad`; clipping comes after it.

        Args:
            number: of the step in the whole training, from 0.

        Returns:
            (sum of losses, sum of weights) of this rank's share.
        """

    def lr_scale(self, name: str) -> float:
        """Return what the learning rate of the parameter `name` is multiplied by; asked once, before training."""
        return 1.0

    def targets(self, targets_BK: NDArray[np.float32], index_B: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what a batch is to learn: its targets, and columns of the step's own behind them; mixed alike.

        Args:
            index_B: the records' positions in the training split.
        """
        return targets_BK

    def after(self, number: int) -> None:  # noqa: B027  (adds nothing)
        """Change the parameters after the optimiser's step; their gradients are still there."""

    def metrics(self) -> Mapping[str, float]:
        """Return what the epoch's report says of its steps, and begin a new epoch."""
        return {}

    def state(self) -> State:
        """Return what a resumed trial needs to go on."""
        return {}

    def load(self, state: State) -> None:  # noqa: B027  (has none)
        """Take up what `state` returned."""


BuildStep = Callable[[nn.Module, Criterion, int], Step]
"""(model on its device, criterion, steps of the whole training) -> step."""
