"""Metrics against scikit-learn and closed forms to 1e-12, ties and empty classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from data.dataset import LabelSet
from tests.trainables.tiny_dataset import LABEL_SETS
from trainables.metrics import probabilities, score

HALF = np.full(3, 0.5)


def multilabel(n: int) -> LabelSet:
    return LabelSet("test", "multilabel", tuple(f"class{k}" for k in range(n)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 10, 1000]),  # distinct probabilities: few make ties
)
def test_multilabel_metrics_are_scikit_learns(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, levels + 1, (60, 3)) / levels
    truth = rng.integers(0, 2, (60, 3))
    truth[:2] = [[0, 0, 0], [1, 1, 1]]
    scores = score(predicted, truth.astype(np.float32), multilabel(3), HALF, beta=2.0)
    called = predicted >= 0.5
    expected = {
        "auroc": sk.roc_auc_score(truth, predicted, average="macro"),
        "map": sk.average_precision_score(truth, predicted, average="macro"),
        "f1": sk.f1_score(truth, called, average="macro", zero_division=0),
        "f_beta": sk.fbeta_score(truth, called, beta=2, average="macro", zero_division=0),
        "precision": sk.precision_score(truth, called, average="macro", zero_division=0),
        "recall": sk.recall_score(truth, called, average="macro"),
        "specificity": sk.recall_score(1 - truth, ~called, average="macro"),
        "balanced_accuracy": np.mean([sk.balanced_accuracy_score(truth[:, k], called[:, k]) for k in range(3)]),
        "accuracy": (truth == called).mean(),
        "auprc": np.mean([sk.auc(*sk.precision_recall_curve(truth[:, k], predicted[:, k])[1::-1]) for k in range(3)]),
    }
    assert dict(scores.macro) == pytest.approx(expected, abs=1e-12)
    assert scores.left_out == ()
    assert scores.per_class["class1"]["auroc"] == pytest.approx(
        sk.roc_auc_score(truth[:, 1], predicted[:, 1]), abs=1e-12
    )


def test_multiclass_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    predicted = probabilities(rng.normal(size=(80, 3)), "multiclass")
    labels = rng.integers(0, 3, 80)
    scores = score(predicted, labels[:, None].astype(np.float32), LABEL_SETS["multiclass"], HALF, beta=2.0)
    called = predicted.argmax(axis=1)
    assert scores.macro["auroc"] == pytest.approx(sk.roc_auc_score(labels, predicted, multi_class="ovr"), abs=1e-12)
    assert scores.macro["accuracy"] == pytest.approx(sk.accuracy_score(labels, called), abs=1e-12)
    assert scores.macro["balanced_accuracy"] == pytest.approx(
        np.mean([sk.balanced_accuracy_score(labels == k, called == k) for k in range(3)]), abs=1e-12
    )
    for metric, reference in {"f1": sk.f1_score, "precision": sk.precision_score, "recall": sk.recall_score}.items():
        assert scores.macro[metric] == pytest.approx(reference(labels, called, average="macro"), abs=1e-12)


def test_regression_metrics_are_scikit_learns_over_known_targets() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(800, 100, (50, 1)).astype(np.float32)
    values = truth + rng.normal(0, 30, (50, 1))
    truth_with_gaps = truth.copy()
    truth_with_gaps[::7] = np.nan
    known = ~np.isnan(truth_with_gaps[:, 0])
    scores = score(values, truth_with_gaps, LABEL_SETS["regression"], HALF[:1], beta=2.0)
    expected = {
        "mae": sk.mean_absolute_error(truth[known], values[known]),
        "mse": sk.mean_squared_error(truth[known], values[known]),
        "rmse": sk.root_mean_squared_error(truth[known], values[known]),
        "r2": sk.r2_score(truth[known], values[known]),
    }
    assert dict(scores.macro) == pytest.approx(expected, rel=1e-12)


def test_a_class_with_one_value_is_left_out_and_named() -> None:
    predicted = np.array([[0.9, 0.2], [0.1, 0.4], [0.8, 0.6]])
    truth = np.array([[1, 0], [0, 0], [1, 0]], dtype=np.float32)
    scores = score(predicted, truth, multilabel(2), HALF[:2], beta=2.0)
    assert scores.left_out == ("class1",)
    assert scores.macro["auroc"] == 1.0
    assert scores.macro["f1"] == 1.0
    assert set(scores.per_class["class1"]) == {"accuracy"}
    assert scores.macro["accuracy"] == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_one_class_only_makes_metrics_absent_rather_than_zero(value: float) -> None:
    truth = np.full((4, 1), value, dtype=np.float32)
    scores = score(np.array([[0.1], [0.9], [0.4], [0.6]]), truth, LABEL_SETS["binary"], HALF[:1], beta=2.0)
    assert dict(scores.macro) == {"accuracy": 0.5}
    assert scores.left_out == ("fast",)


def test_a_constant_target_has_no_r2() -> None:
    truth = np.full((4, 1), 3.0, dtype=np.float32)
    scores = score(np.zeros((4, 1)), truth, LABEL_SETS["regression"], HALF[:1], beta=2.0)
    assert dict(scores.macro) == {"mae": 3.0, "mse": 9.0, "rmse": 3.0}


def test_confident_records_do_not_become_ties() -> None:
    predicted = probabilities(np.array([[20.0], [25.0]], dtype=np.float32), "binary")
    assert predicted[0] < predicted[1]


def test_equal_predictions_give_the_closed_forms_of_chance() -> None:
    """All tied: the ROC is the diagonal, and precision is the prevalence 3/7 at every recall above 0."""
    truth = np.array([1, 0, 1, 0, 0, 1, 0], dtype=np.float32)[:, None]
    scores = score(np.full((7, 1), 0.3), truth, LABEL_SETS["binary"], HALF[:1], beta=2.0).macro
    assert scores["auroc"] == pytest.approx(1 / 2, abs=1e-12)
    assert scores["map"] == pytest.approx(3 / 7, abs=1e-12)
    assert scores["auprc"] == pytest.approx((1 + 3 / 7) / 2, abs=1e-12)


def test_auroc_is_the_share_of_pairs_in_order_with_ties_as_halves() -> None:
    rng = np.random.default_rng(5)
    predicted, truth = rng.integers(0, 8, 400) / 7, (rng.random(400) < 0.3).astype(np.float32)
    pairs = predicted[truth == 1][:, None] - predicted[truth == 0][None]
    expected = ((pairs > 0).sum() + 0.5 * (pairs == 0).sum()) / pairs.size
    scores = score(predicted[:, None], truth[:, None], LABEL_SETS["binary"], HALF[:1], beta=2.0)
    assert scores.macro["auroc"] == pytest.approx(expected, abs=1e-12)
