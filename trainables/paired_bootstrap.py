"""Comparison of several models on the same records: paired bootstrap, and Holm's correction for many comparisons.

Every model is scored on the same resamples of patients, so what makes a resample easy or hard cancels out in the
differences. R: resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainables.bootstrap import percentile_interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How much another model's metric lies above the first's: 95 % interval, and two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def paired_difference(value: float, first_R: Floats, other_R: Floats) -> Difference:
    """Judge the difference of two models from their metric in the same resamples.

    p is twice the smaller share of resamples on either side of 0, counting the observed sample itself, so that it is
    never below 2 / (R + 1) (Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 4.2).

    Args:
        value: the observed difference, other - first.

    Raises:
        ValueError: no resample has a value for both.
    """
    assert first_R.shape == other_R.shape
    difference_R = other_R - first_R
    difference_R = difference_R[np.isfinite(difference_R)]
    interval = percentile_interval(difference_R)
    if interval is None:
        raise ValueError("no resample of the test records has a class with positives and negatives")
    smaller = min(int((difference_R <= 0).sum()), int((difference_R >= 0).sum()))
    p = min(1.0, 2 * (1 + smaller) / (1 + len(difference_R)))
    return Difference(value, *interval, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Holm, A simple sequentially rejective procedure, 1979).

    With p sorted upwards, adjusted_i = max over j <= i of min(1, (m - j) p_j), j from 0.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * np.asarray(p_values, float)[order]))
    return [float(value) for value in adjusted]
