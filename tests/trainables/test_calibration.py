"""Calibration against scikit-learn, scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from trainables.calibration import brier_scores, reliability, top_reliability


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_bins_are_scikit_learns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    predicted_N, truth_N = rng.random(n), (rng.random(n) < 0.3).astype(float)
    bins = reliability(predicted_N, truth_N)
    observed, predicted = calibration_curve(truth_N, predicted_N, n_bins=15)
    np.testing.assert_allclose(bins.observed_B, observed, atol=1e-12)
    np.testing.assert_allclose(bins.predicted_B, predicted, atol=1e-12)
    assert bins.n_B.sum() == n


def test_the_calibration_error_is_the_mean_gap_weighted_by_records() -> None:
    """Eight records at 0.9 of which four are positive, two at 0.1 of which none is: (8 * 0.4 + 2 * 0.1) / 10."""
    predicted_N = np.array([0.9] * 8 + [0.1] * 2)
    truth_N = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], float)
    assert reliability(predicted_N, truth_N).error == pytest.approx(0.34, abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_and_right_is_without_error_at_both_ends(value: float) -> None:
    bins = reliability(np.full(5, value), np.full(5, value))
    assert (bins.error, bins.n_B.tolist()) == (0.0, [5])
    assert reliability(np.full(5, value), np.full(5, 1 - value)).error == 1.0


def test_without_records_there_is_no_error_to_speak_of() -> None:
    assert np.isnan(reliability(np.empty(0), np.empty(0)).error)


def test_the_intervals_of_the_observed_shares_are_wilsons() -> None:
    truth_N = np.array([1] * 3 + [0] * 9, float)
    ((low, high),) = reliability(np.full(12, 0.5), truth_N).interval_B2
    expected = binomtest(3, 12).proportion_ci(method="wilson")
    assert (low, high) == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


def test_brier_scores_are_scikit_learns_and_weights_count_records() -> None:
    rng = np.random.default_rng(0)
    predicted_NK, truth_NK = rng.random((40, 2)), rng.integers(0, 2, (40, 2)).astype(float)
    weights_RN = np.stack([np.ones(40), rng.integers(0, 4, 40)]).astype(float)
    scores_RK = brier_scores(predicted_NK, truth_NK, weights_RN)
    for r, weights_N in enumerate(weights_RN):
        for k in range(2):
            expected = brier_score_loss(truth_NK[:, k], predicted_NK[:, k], sample_weight=weights_N)
            assert scores_RK[r, k] == pytest.approx(expected, abs=1e-12)


def test_the_top_class_is_judged_by_whether_it_is_right() -> None:
    predicted_NK = np.array([[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    truth_NK = np.eye(3)[[0, 0, 1]]
    assert top_reliability(predicted_NK, truth_NK).error == pytest.approx((0.3 + 0.5 + 0.2) / 3, abs=1e-12)
