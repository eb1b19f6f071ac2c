"""Paired bootstrap and Holm's correction against scipy, closed forms and the closed testing principle."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, ttest_rel

from data.dataset import LabelSet
from trainables.bootstrap import resample
from trainables.evaluation import Evaluation
from trainables.metrics import score
from trainables.paired_bootstrap import holm, paired_difference

BINARY = LabelSet("made", "binary", ("sick",))
N = 400


def evaluation(predicted_N: np.ndarray, truth_N: np.ndarray) -> Evaluation:
    predicted_NK, labels_NK = predicted_N[:, None].astype(float), truth_N[:, None].astype(np.float32)
    half_K = np.array([0.5])
    return Evaluation(score(predicted_NK, labels_NK, BINARY, half_K, 2.0), half_K, predicted_NK, labels_NK)


def accuracies(wrong: float, seed: int) -> tuple[Evaluation, np.ndarray]:
    """Return a model that is wrong on that share of records, and where it is right."""
    truth_N = np.arange(N) % 2
    right_N = np.random.default_rng(seed).random(N) >= wrong
    return evaluation(np.where(right_N, truth_N, 1 - truth_N), truth_N), right_N


def test_the_difference_of_two_accuracies_has_scipys_interval_and_the_p_of_the_paired_t_test() -> None:
    (first, first_right_N), (other, other_right_N) = accuracies(0.30, 1), accuracies(0.24, 2)
    ids = np.arange(N).astype(str)
    first_R, other_R = (
        resample(each, BINARY, 2.0, ids, seed=3, n_resamples=4000).macro["accuracy"] for each in (first, other)
    )
    paired_N = other_right_N.astype(float) - first_right_N
    found = paired_difference(float(paired_N.mean()), first_R, other_R)
    expected = bootstrap((paired_N,), np.mean, n_resamples=4000, method="percentile", rng=4).confidence_interval
    assert (found.low, found.high) == (pytest.approx(expected.low, abs=5e-3), pytest.approx(expected.high, abs=5e-3))
    assert found.p == pytest.approx(ttest_rel(1.0 * other_right_N, 1.0 * first_right_N).pvalue, abs=0.02)


def test_pairing_narrows_the_interval_of_models_that_err_together() -> None:
    first, right_N = accuracies(0.3, 1)
    truth_N, also_wrong_N = np.arange(N) % 2, np.arange(N) % 50 == 0
    other = evaluation(np.where(right_N & ~also_wrong_N, truth_N, 1 - truth_N), truth_N)
    ids = np.arange(N).astype(str)
    first_R, other_R = (resample(each, BINARY, 2.0, ids, 5).macro["accuracy"] for each in (first, other))
    paired = paired_difference(0, first_R, other_R)
    unpaired = paired_difference(0, first_R, np.random.default_rng(0).permutation(other_R))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_equal_models_do_not_differ() -> None:
    values_R = np.random.default_rng(0).random(200)
    assert paired_difference(0.0, values_R, values_R).p == 1.0


def test_p_is_never_below_what_the_resamples_can_tell() -> None:
    found = paired_difference(1.0, np.zeros(99), np.ones(99))
    assert (found.low, found.high, found.p) == (1.0, 1.0, pytest.approx(2 / 100))


def test_a_difference_without_any_resample_is_refused() -> None:
    with pytest.raises(ValueError, match="no resample of the test records has a class"):
        paired_difference(0.1, np.full(5, np.nan), np.full(5, np.nan))


def test_holms_correction_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_correction_is_the_closed_test_of_bonferroni(p_values: list[float]) -> None:
    """A hypothesis falls where Bonferroni rejects every intersection of hypotheses that it is part of."""
    indices = range(len(p_values))
    subsets = list(chain.from_iterable(combinations(indices, size) for size in range(1, len(p_values) + 1)))
    expected = [
        max(min(1.0, len(subset) * min(p_values[j] for j in subset)) for subset in subsets if i in subset)
        for i in indices
    ]
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)
