"""Losses against torch's own, against closed forms, and the law that parts of a batch add up to the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.trainables.tiny_dataset import LABEL_SETS
from trainables.config import TrainConfig
from trainables.losses import balanced_weights, build_criterion, targets_from_labels

GENERATOR = np.random.default_rng(0)
LOGITS = {
    "multilabel": torch.from_numpy(GENERATOR.normal(0, 2, (20, 2)).astype(np.float32)),
    "multiclass": torch.from_numpy(GENERATOR.normal(0, 2, (20, 3)).astype(np.float32)),
    "regression": torch.from_numpy(GENERATOR.normal(5, 2, (20, 1)).astype(np.float32)),
}
LABELS = {
    "multilabel": GENERATOR.integers(0, 2, (20, 2)).astype(np.float32),
    "multiclass": GENERATOR.integers(0, 3, (20, 1)).astype(np.float32),
    "regression": GENERATOR.normal(5, 3, (20, 1)).astype(np.float32),
}


def our_loss(task: Any, **params: Any) -> float:
    label_set = LABEL_SETS[task]
    criterion = build_criterion(TrainConfig(**params), label_set, LABELS[task])
    return criterion.mean(LOGITS[task], targets_from_labels(LABELS[task], label_set))


def test_bce_equals_torchs_with_balanced_weights() -> None:
    labels = torch.from_numpy(LABELS["multilabel"])
    positives = labels.sum(dim=0)
    expected = F.binary_cross_entropy_with_logits(LOGITS["multilabel"], labels, pos_weight=(20 - positives) / positives)
    assert our_loss("multilabel", class_weights="balanced") == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_equals_torchs_with_smoothing(smoothing: float) -> None:
    labels = torch.from_numpy(LABELS["multiclass"][:, 0]).long()
    expected = F.cross_entropy(LOGITS["multiclass"], labels, label_smoothing=smoothing)
    assert our_loss("multiclass", label_smoothing=smoothing) == pytest.approx(float(expected), rel=1e-6)


def test_cross_entropy_equals_torchs_with_balanced_weights() -> None:
    labels = torch.from_numpy(LABELS["multiclass"][:, 0]).long()
    weights = 20 / (3 * labels.bincount(minlength=3))
    expected = F.cross_entropy(LOGITS["multiclass"], labels, weight=weights.float())
    assert our_loss("multiclass", class_weights="balanced") == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_focal_loss_without_focus_is_cross_entropy(task: Any) -> None:
    assert our_loss(task, loss="focal", focal_gamma=0.0) == pytest.approx(our_loss(task), rel=1e-6)


def test_focal_loss_follows_its_formula() -> None:
    p = torch.sigmoid(LOGITS["multilabel"]).double().numpy()
    truth = LABELS["multilabel"]
    p_t = np.where(truth == 1, p, 1 - p)
    expected = (-((1 - p_t) ** 2) * np.log(p_t)).mean()
    assert our_loss("multilabel", loss="focal") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("loss", "reference"), [("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss)])
def test_regression_losses_are_in_deviations_of_the_target(loss: str, reference: Any) -> None:
    labels = torch.from_numpy(LABELS["regression"])
    scale = labels.double().std(unbiased=False)
    expected = reference(LOGITS["regression"] / scale, labels / scale)
    assert our_loss("regression", loss=loss) == pytest.approx(float(expected), rel=1e-5)


def test_missing_targets_are_left_out() -> None:
    labels = LABELS["regression"].copy()
    criterion = build_criterion(TrainConfig(), LABEL_SETS["regression"], labels)
    whole = criterion.mean(LOGITS["regression"][5:], torch.from_numpy(labels[5:]))
    labels[:5] = np.nan
    assert criterion.mean(LOGITS["regression"], torch.from_numpy(labels)) == pytest.approx(whole, rel=1e-6)


@given(
    task=st.sampled_from(["multilabel", "multiclass", "regression"]),
    cuts=st.lists(st.integers(0, 20), max_size=4).map(sorted),
)
def test_the_parts_of_a_batch_add_up_to_the_whole(task: Any, cuts: list[int]) -> None:
    label_set = LABEL_SETS[task]
    weights: Any = {} if task == "regression" else {"class_weights": "balanced", "label_smoothing": 0.1}
    criterion = build_criterion(TrainConfig(**weights), label_set, LABELS[task])
    targets = targets_from_labels(LABELS[task], label_set)
    parts = list(zip(LOGITS[task].tensor_split(cuts), targets.tensor_split(cuts), strict=True))
    total = sum(float(criterion.total(*part)) for part in parts)
    weight = sum(float(criterion.weight(part[1])) for part in parts)
    assert total / weight == pytest.approx(criterion.mean(LOGITS[task], targets), rel=1e-5)


def test_a_class_without_records_weighs_one() -> None:
    labels = np.array([[0, 1], [0, 0], [0, 0]], dtype=np.float32)
    assert balanced_weights(labels, LABEL_SETS["multilabel"]).tolist() == [1.0, 2.0]
    indices = np.array([[0], [0], [2]], dtype=np.float32)
    assert balanced_weights(indices, LABEL_SETS["multiclass"]).tolist() == [0.5, 1.0, 1.0]


def test_a_target_without_values_is_refused() -> None:
    labels = np.full((4, 1), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="needs a known value"):
        build_criterion(TrainConfig(), LABEL_SETS["regression"], labels)
