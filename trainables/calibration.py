"""Calibration of predicted probabilities: reliability bins, expected calibration error, Brier score.

Guo et al., On Calibration of Modern Neural Networks, 2017: ECE = sum_b n_b / N |observed_b - predicted_b| over bins of
equal width. Of several classes each is judged against the rest.

N: records, K: classes, B: bins that have records, R: resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

N_BINS = 15
Z_95 = 1.959963984540054  # the normal's 97.5 % quantile


@dataclass(frozen=True)
class Reliability:
    """What was predicted in each bin, and what came true."""

    predicted_B: Floats  # mean probability
    observed_B: Floats  # share of positives
    n_B: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error; NaN without records."""
        gap_B = np.abs(self.observed_B - self.predicted_B)
        return float((self.n_B * gap_B).sum() / self.n_B.sum()) if len(self.n_B) else float("nan")

    @property
    def interval_B2(self) -> Floats:
        """Each observed share's 95 % interval of Wilson (1927)."""
        shrink_B = 1 / (1 + Z_95**2 / self.n_B)
        centre_B = shrink_B * (self.observed_B + Z_95**2 / (2 * self.n_B))
        variance_B = self.observed_B * (1 - self.observed_B) / self.n_B + Z_95**2 / (4 * self.n_B**2)
        half_B = shrink_B * Z_95 * np.sqrt(variance_B)
        return np.stack([centre_B - half_B, centre_B + half_B], axis=1)


def reliability(predicted_N: Floats, truth_N: Floats, n_bins: int = N_BINS) -> Reliability:
    """Bin one class's probabilities: [0, 1/n), [1/n, 2/n), ..., the last with its upper end."""
    bin_N = np.minimum((predicted_N * n_bins).astype(np.int64), n_bins - 1)
    n_B, sum_B, positive_B = (np.bincount(bin_N, weights, n_bins) for weights in (None, predicted_N, truth_N))
    kept = n_B > 0
    return Reliability(sum_B[kept] / n_B[kept], positive_B[kept] / n_B[kept], n_B[kept].astype(np.int64))


def top_reliability(predicted_NK: Floats, truth_NK: Floats, n_bins: int = N_BINS) -> Reliability:
    """Bin the probability of each record's most probable class, true where that class is right."""
    top_N1 = predicted_NK.argmax(axis=1)[:, None]
    confidence_N, right_N = (np.take_along_axis(each, top_N1, axis=1)[:, 0] for each in (predicted_NK, truth_NK))
    return reliability(confidence_N, right_N, n_bins)


def brier_scores(predicted_NK: Floats, truth_NK: Floats, weights_RN: Floats) -> Floats:
    """Return each class's mean squared difference of probability and truth in each resample, scores_RK."""
    scores_RK: Floats = weights_RN @ np.square(predicted_NK - truth_NK) / weights_RN.sum(axis=1, keepdims=True)
    return scores_RK
