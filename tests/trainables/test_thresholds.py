"""Threshold rules against brute force over every distinct probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score, recall_score

from trainables.config import TrainConfig
from trainables.thresholds import fit_thresholds

Pairs = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(truth for _, truth in pairs) < len(pairs)
)


def youden(truth: Any, called: Any) -> float:
    return float(called[truth].mean() - called[~truth].mean())


def columns(pairs: list[tuple[int, bool]]) -> tuple[Any, Any]:
    probabilities, truth = zip(*pairs, strict=True)
    return np.array(probabilities) / 10, np.array(truth)


def fitted(probabilities: Any, truth: Any, rule: Any, **params: Any) -> float:
    config = TrainConfig(threshold_rule=rule, **params)
    return float(fit_thresholds(probabilities[:, None], truth[:, None].astype(np.float32), config)[0])


@settings(max_examples=60, deadline=None)
@given(Pairs, st.sampled_from(["best_f1", "best_fbeta", "youden"]))
def test_no_other_threshold_scores_higher(pairs: list[tuple[int, bool]], rule: str) -> None:
    probabilities, truth = columns(pairs)
    beta = 1.0 if rule == "best_f1" else 2.0

    def score(threshold: float) -> float:
        called = probabilities >= threshold
        if rule == "youden":
            return youden(truth, called)
        return float(fbeta_score(truth, called, beta=beta, zero_division=0))

    best = max(score(threshold) for threshold in np.unique(probabilities))
    assert score(fitted(probabilities, truth, rule)) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(Pairs, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_a_sensitivity_is_reached_by_the_highest_threshold_that_does(
    pairs: list[tuple[int, bool]], sensitivity: float
) -> None:
    probabilities, truth = columns(pairs)
    threshold = fitted(probabilities, truth, "at_sensitivity", threshold_sensitivity=sensitivity)
    assert recall_score(truth, probabilities >= threshold) >= sensitivity - 1e-9
    lowest_called = probabilities[probabilities >= threshold].min()
    tighter = np.unique(probabilities[probabilities > lowest_called])
    assert all(recall_score(truth, probabilities >= p) < sensitivity - 1e-9 for p in tighter)


def test_the_threshold_lies_in_the_middle_of_the_gap_it_cuts() -> None:
    assert fitted(np.array([0.1, 0.2, 0.8, 0.9]), np.array([False, False, True, True]), "best_f1") == 0.5


@pytest.mark.parametrize("truth", [[True, True], [False, False]])
def test_a_class_with_one_value_keeps_a_half(truth: list[bool]) -> None:
    assert fitted(np.array([0.3, 0.9]), np.array(truth), "youden") == 0.5


def test_half_is_a_half() -> None:
    assert fitted(np.array([0.3, 0.4]), np.array([False, True]), "half") == 0.5


def test_neighbouring_floats_are_told_apart() -> None:
    low = 0.3
    high = float(np.nextafter(low, 1))
    threshold = fitted(np.array([low, high]), np.array([False, True]), "best_f1")
    assert low < threshold <= high
