"""Macro scores are scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from data.dataset import LabelSet
from trainables.evaluation import Evaluation
from trainables.macro_scores import macro_names, macro_scores, resampled_macro
from trainables.metrics import Scores

BINARY = LabelSet("sex", "binary", ("female",))
CLASSES = LabelSet("report", "multiclass", ("a", "b", "c", "d"))


def evaluation(predicted_NK: np.ndarray, labels_N: np.ndarray) -> Evaluation:
    return Evaluation(Scores({}, {}), np.full(predicted_NK.shape[1], 0.5), predicted_NK, labels_N[:, None])


def expected(truth_N: np.ndarray, called_N: np.ndarray) -> list[float]:
    return list(precision_recall_fscore_support(truth_N, called_N, average="macro", zero_division=0)[:3])


def test_both_classes_of_a_binary_task_count_alike() -> None:
    rng = np.random.default_rng(0)
    predicted_N1, truth_N = rng.random((60, 1)), (rng.random(60) < 0.2).astype(np.float32)
    found = macro_scores(evaluation(predicted_N1, truth_N), BINARY)
    assert list(found.values()) == pytest.approx(expected(truth_N, predicted_N1[:, 0] >= 0.5))
    assert tuple(found) == macro_names("binary")


def test_a_class_without_any_record_or_call_is_left_out() -> None:
    rng = np.random.default_rng(1)
    predicted_NK, truth_N = rng.random((50, 4)), rng.integers(0, 3, 50).astype(np.float32)
    predicted_NK[:, 3] = 0  # neither there nor called
    found = macro_scores(evaluation(predicted_NK, truth_N), CLASSES)
    assert list(found.values()) == pytest.approx(expected(truth_N, predicted_NK.argmax(axis=1)))


def test_a_resample_is_scored_as_its_records_are() -> None:
    rng = np.random.default_rng(2)
    predicted_NK, truth_N = rng.random((40, 4)), rng.integers(0, 4, 40).astype(np.float32)
    rows_R = [rng.integers(40, size=40) for _ in range(3)]
    weights_RN = np.stack([np.bincount(rows, minlength=40) for rows in rows_R]).astype(np.float64)
    found = resampled_macro(evaluation(predicted_NK, truth_N), CLASSES, weights_RN)
    for resample, rows in enumerate(rows_R):
        own = [values_R[resample] for values_R in found.values()]
        assert own == pytest.approx(expected(truth_N[rows], predicted_NK[rows].argmax(axis=1)))


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_have_no_macro_scores(task: str) -> None:
    label_set = LabelSet("x", task, ("x",))  # type: ignore[arg-type]
    assert macro_scores(evaluation(np.zeros((3, 1)), np.zeros(3)), label_set) == {}
