"""The step of an ensemble: back-propagation, with a pace of its own for the few numbers that mix the experts.

B: records, K: outputs, J: outputs and parts, M: parts, none unless stacking deals the records.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainables.back_propagation import BackPropagation
from trainables.step import Step

# An optimiser such as Adam moves a number by about lr a step, which is much for one of a layer's many and little for a
# weight of an expert, or a coefficient of a stacking, that has to come from an even share in as many steps.
MIXING_PACE: Final = 30.0
_MIXING: Final = frozenset(
    {"mixture.mixing.weighing.score_E", "mixture.mixing.linear.weight", "mixture.mixing.linear.bias"}
)


class EnsembleStep(Step):
    """Back-propagation of targets_BJ: behind its targets, a record has the part that it is in."""

    def __init__(self, plain: BackPropagation, part_NM: NDArray[np.float32]) -> None:
        self._plain, self._part_NM = plain, part_NM

    def lr_scale(self, name: str) -> float:
        return MIXING_PACE if name in _MIXING else 1.0

    def targets(self, targets_BK: NDArray[np.float32], index_B: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.concatenate([targets_BK, self._part_NM[index_B]], axis=1)

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        return self._plain.gradient(ecg_BLT, targets_BJ, number)
