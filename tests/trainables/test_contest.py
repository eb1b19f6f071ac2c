"""The contest's arithmetic, against what the contest and its participants published."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import fbeta_score, precision_score, recall_score

from trainables.contest import contest_score, is_degenerate, pooled_scores, subject_scores


def answers(tp: int, fn: int, fp: int, tn: int) -> tuple[np.ndarray, np.ndarray]:
    called_N = np.repeat([True, False, True, False], [tp, fn, fp, tn])
    truth_N = np.repeat([True, True, False, False], [tp, fn, fp, tn])
    return called_N, truth_N


def test_the_published_entry_has_its_published_points() -> None:
    """60.425 from unrounded figures."""
    assert contest_score(0.941, 0.833, 13.789, 471) == pytest.approx(60.425, abs=0.02)


@pytest.mark.parametrize(
    ("entry", "points"),
    [((1.0, 1.0, 0.5, 50), 80), ((0.5, 0.5, 50, 1000), 0), ((1.0, 1.0, 0.01, 3), 80), ((0.2, 0.1, 900, 9000), 0)],
)
def test_points_end_at_80_and_at_0(entry: tuple[float, float, float, float], points: float) -> None:
    assert contest_score(*entry) == pytest.approx(points)


def test_a_published_confusion_has_its_published_scores() -> None:
    """[TP, FN, FP, TN] = [6242, 702, 294, 5366] of 12,604 segments."""
    scores = pooled_scores(*answers(6242, 702, 294, 5366))
    published = {"f1": 0.926, "f_beta": 0.910, "sensitivity": 0.899, "specificity": 0.948, "accuracy": 0.921}
    assert {name: round(scores[name], 3) for name in published} == published


def test_scores_are_scikit_learns_where_both_classes_are_there_and_called() -> None:
    rng = np.random.default_rng(0)
    called_N, truth_N = rng.random(200) < 0.4, rng.random(200) < 0.5
    scores = pooled_scores(called_N, truth_N, beta=2.0)
    expected = {
        "f_beta": fbeta_score(truth_N, called_N, beta=2.0),
        "f1": fbeta_score(truth_N, called_N, beta=1.0),
        "ppv": precision_score(truth_N, called_N),
        "sensitivity": recall_score(truth_N, called_N),
        "npv": precision_score(~truth_N, ~called_N),
        "specificity": recall_score(~truth_N, ~called_N),
    }
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0, 5), {"ppv": 1, "sensitivity": 1, "f_beta": 1, "npv": 1, "specificity": 1}),
        ((0, 0, 2, 3), {"ppv": 1, "sensitivity": 1, "npv": 1, "specificity": 0.6}),
        ((0, 4, 0, 5), {"ppv": 0, "sensitivity": 0, "f_beta": 0, "f1": 0, "specificity": 1}),
        ((5, 0, 0, 0), {"npv": 1, "specificity": 1, "ppv": 1, "sensitivity": 1}),
        ((5, 0, 4, 0), {"npv": 0, "specificity": 0, "balanced_accuracy": 0.5}),
    ],
)
def test_empty_denominators_follow_the_contest(counts: tuple[int, int, int, int], expected: dict[str, float]) -> None:
    scores = pooled_scores(*answers(*counts))
    assert {name: scores[name] for name in expected} == pytest.approx(expected)


def test_a_classifier_that_always_says_af_has_half_the_subjects_of_the_published_test_part() -> None:
    """Eight of its sixteen subjects have AF alone: F-beta 1 there, and G 0.5 though nothing was learnt."""
    subject_N = np.repeat([f"S{n}" for n in range(16)], 10)
    truth_N = np.repeat([True] * 8 + [False] * 8, 10)
    truth_N[80::10] = True  # the others have some
    scores = subject_scores(np.ones(160, bool), truth_N, subject_N)
    assert scores["g_score"] == 0.5
    assert scores["specificity"] == 0.5
    assert is_degenerate(np.ones(160, bool), truth_N)


def test_averages_are_over_subjects_and_not_over_records() -> None:
    subject_N = np.array(["a"] * 9 + ["b"])
    truth_N = np.ones(10, bool)
    called_N = np.array([True] * 9 + [False])
    assert subject_scores(called_N, truth_N, subject_N)["sensitivity"] == pytest.approx(0.5)
    assert pooled_scores(called_N, truth_N)["sensitivity"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("counts", "degenerate"),
    [
        ((50, 0, 50, 0), True),  # all called
        ((0, 50, 0, 50), True),  # none called
        ((0, 50, 20, 50), True),  # all that is called is wrong
        ((50, 20, 50, 0), True),  # no negative is right
        ((991, 0, 1, 8), True),  # 99.2 % called
        ((985, 0, 5, 10), False),  # 99 % called, not over
        ((1, 49, 0, 50), False),  # 99 % not called, not over
        ((30, 20, 20, 30), False),
    ],
)
def test_a_classifier_that_has_learnt_nothing_is_degenerate(
    counts: tuple[int, int, int, int], degenerate: bool
) -> None:
    assert is_degenerate(*answers(*counts)) is degenerate
