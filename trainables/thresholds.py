"""Decision thresholds: one a class, fitted on validation (never on test), applied as probability >= threshold.

N: records, K: classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.config import TrainConfig

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cuts:
    """What each possible threshold would call, from the highest to the lowest."""

    true_positives: Floats
    false_positives: Floats
    n_positive: int
    n_negative: int

    @property
    def sensitivity(self) -> Floats:
        return self.true_positives / self.n_positive


Scoring = Callable[[Cuts], Floats]  # what to maximise, for each cut


def fit_thresholds(probabilities_NK: Floats, labels_NK: NDArray[np.float32], config: TrainConfig) -> Floats:
    """Return thresholds_K by `config.threshold_rule`; of equally good ones the highest.

    A class with one value only, which tells nothing, gets 0.5.
    """
    n_classes = probabilities_NK.shape[1]
    if config.threshold_rule == "half":
        return np.full(n_classes, 0.5)
    scoring = _scoring(config)
    return np.array([_fit(probabilities_NK[:, k], labels_NK[:, k] > 0.5, scoring) for k in range(n_classes)])


def _fit(probabilities_N: Floats, positive_N: NDArray[np.bool_], scoring: Scoring) -> float:
    n_positive = int(positive_N.sum())
    n_negative = len(positive_N) - n_positive
    if not n_positive or not n_negative:
        return 0.5
    order = np.argsort(-probabilities_N, kind="stable")
    sorted_N = probabilities_N[order]
    ends = np.append(np.flatnonzero(np.diff(sorted_N)), len(sorted_N) - 1)  # the last record of each tie
    true_positives = np.cumsum(positive_N[order])[ends].astype(np.float64)
    cuts = Cuts(true_positives, ends + 1 - true_positives, n_positive, n_negative)
    return _between(sorted_N[ends], int(np.argmax(scoring(cuts))))


def _between(distinct: Floats, cut: int) -> float:
    """Return the middle between the cut's score and the next lower one: far from both, whatever rounding brings."""
    upper = float(distinct[cut])
    lower = float(distinct[cut + 1]) if cut + 1 < len(distinct) else 0.0
    middle = (upper + lower) / 2
    return middle if lower < middle else upper


def _scoring(config: TrainConfig) -> Scoring:
    if config.threshold_rule == "youden":
        return lambda cuts: cuts.sensitivity - cuts.false_positives / cuts.n_negative
    if config.threshold_rule == "at_sensitivity":
        # 1e-9: 0.9 of 10 positives are 9, whatever the rounding of 9 / 10. The first of equals is the highest cut.
        return lambda cuts: (cuts.sensitivity >= config.threshold_sensitivity - 1e-9).astype(np.float64)
    beta = 1.0 if config.threshold_rule == "best_f1" else config.threshold_beta
    return lambda cuts: _f_beta(cuts, beta)


def _f_beta(cuts: Cuts, beta: float) -> Floats:
    called = cuts.true_positives + cuts.false_positives
    return np.asarray((1 + beta**2) * cuts.true_positives / (called + beta**2 * cuts.n_positive))
