"""How a method takes part in a step of the shared trainer, where it does not just back-propagate the criterion.

B: records of a rank's share of a batch, L: leads, T: timesteps, K: outputs, J: those and further columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.losses import Criterion
from trainables.trial import State


class Step(Protocol):
    """Finds the gradient that an optimiser step follows.

    The model is not wrapped in DistributedDataParallel: a step sums over the ranks by itself.
    """

    def targets(self, targets_BK: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a batch is to learn: its targets, and columns of the step's own behind them; mixed alike."""

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        """Put the gradient of the mean loss over all ranks' records into `.grad`.

        Args:
            number: of the step in the whole training, from 0.

        Returns:
            (sum of losses, sum of weights) of this rank's share.
        """

    def metrics(self) -> Mapping[str, float]:
        """Return what the epoch's report says of its steps, and begin a new epoch."""

    def state(self) -> State:
        """Return what a resumed trial needs to go on."""

    def load(self, state: State) -> None: ...


BuildStep = Callable[[nn.Module, Criterion, int], Step]
"""(model on its device, criterion, steps of the whole training) -> step."""
