"""Greedy ensemble selection (Caruana et al., Ensemble selection from libraries of models, ICML 2004).

The ensemble starts as the mean of the n best members, with the n that is best (sorted initialisation). Then, again and
again, the member joins with which the mean is best; one that is in already may join once more, so that a member's
weight is its share of the places. Of all ensembles on this way the best is taken. Ties go to the earlier.

M: members, N: records, K: outputs, B: records of a batch, L: leads, T: timesteps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from trainables.metrics import Floats

N_ADDITIONS = 20  # after the start: with ten members, weights in steps of a thirtieth at the finest

Measure = Callable[[Floats], float]
Counts = tuple[int, ...]


@dataclass(frozen=True)
class Selection:
    """How many places each of M members has, and what their mean is worth."""

    count_M: Counts
    value: float

    @property
    def weight_M(self) -> tuple[float, ...]:
        """Each member's share; 0 for one that was not chosen."""
        return _shares(self.count_M)


def select_members(
    predicted_MNK: Sequence[Floats], measure: Measure, mode: Literal["max", "min"], n_additions: int = N_ADDITIONS
) -> Selection:
    """Choose members by what the mean of their predictions is worth.

    Args:
        predicted_MNK: of each member on the records to select by, probabilities or values; in order of preference.
        measure: predicted_NK -> what it is worth.

    Raises:
        ValueError: there is no member.
    """
    if not predicted_MNK:
        raise ValueError("an ensemble is chosen among members, but got none")
    sign = 1.0 if mode == "max" else -1.0

    def assess(count_M: Counts) -> Selection:
        return Selection(count_M, measure(mean_prediction(predicted_MNK, _shares(count_M))))

    def goodness(selection: Selection) -> float:
        # Equal rankings of the records give areas that differ in their last digits: ties all the same.
        return sign * float(f"{selection.value:.12g}")

    # `max` and `sorted` both leave equals in their order.
    alone = [assess(_places(len(predicted_MNK), [member])) for member in range(len(predicted_MNK))]
    order = sorted(range(len(alone)), key=lambda member: goodness(alone[member]), reverse=True)
    best = max((assess(_places(len(order), order[:n])) for n in range(1, len(order) + 1)), key=goodness)
    way = [best, *_grow(best.count_M, order, n_additions, assess, goodness)]
    return max(way, key=goodness)


def _grow(
    count_M: Counts,
    order: Sequence[int],
    n_additions: int,
    assess: Callable[[Counts], Selection],
    goodness: Callable[[Selection], float],
) -> Iterator[Selection]:
    for _ in range(n_additions):
        grown = (tuple(count + (member == joins) for member, count in enumerate(count_M)) for joins in order)
        best = max((assess(counts) for counts in grown), key=goodness)
        yield best
        count_M = best.count_M


def mean_prediction(predicted_MNK: Sequence[Floats], weight_M: Sequence[float]) -> Floats:
    """Return the weighted mean, predicted_NK."""
    mean_NK = np.zeros(predicted_MNK[0].shape, np.float64)
    for weight, predicted_NK in zip(weight_M, predicted_MNK, strict=True):
        if weight:
            mean_NK += weight * predicted_NK
    return mean_NK


def _places(n_members: int, members: Sequence[int]) -> Counts:
    return tuple(int(member in members) for member in range(n_members))


def _shares(count_M: Counts) -> tuple[float, ...]:
    return tuple(count / sum(count_M) for count in count_M)


class MeanAnswer(nn.Module):
    """The weighted mean of what several networks answer to the same records.

    Args:
        members: ecg_BLT -> answers_BK each: probabilities, or values.
        weights: one a member; their sum is 1.
    """

    def __init__(self, members: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        assert len(members) == len(weights) > 0
        self.members = nn.ModuleList(members)
        self._weights = tuple(weights)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        first, *others = zip(self._weights, self.members, strict=True)
        answer_BK: Tensor = first[0] * first[1](ecg_BLT)
        for weight, member in others:
            answer_BK = answer_BK + weight * member(ecg_BLT)
        return answer_BK
