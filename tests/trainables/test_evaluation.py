"""Prediction over windows, and evaluation with thresholds from validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from torch import Tensor, nn

from tests.trainables.tiny_dataset import LABEL_SETS, TinySplit, tiny_dataset
from trainables.config import TrainConfig
from trainables.evaluation import evaluate, pool_windows, predict
from trainables.metrics import probabilities
from trainables.thresholds import fit_thresholds
from trainables.windows import window_starts

LOGITS = np.random.default_rng(0).normal(0, 4, (5, 7, 3)).astype(np.float32)  # windows, records, outputs


class FirstTimestep(nn.Module):
    """The first timestep of lead 0 as the only logit: which windows were seen is plain."""

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return ecg_BLT[:, 0, :1]


class Summary(nn.Module):
    """Two logits and one more for multiclass, from all that a window holds."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.weight_KLT = torch.from_numpy(np.random.default_rng(1).normal(size=(n_outputs, 3, 64))).float()

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return torch.einsum("blt,klt->bk", ecg_BLT, self.weight_KLT[:, :, : ecg_BLT.shape[2]])


def starts(config: TrainConfig, n_timesteps: int) -> list[int]:
    (start_W,) = window_starts(config, np.array([n_timesteps], np.int32))
    found: list[int] = start_W.tolist()
    return found


def pool(logits_WBK: np.ndarray, task: Any, pooling: Any) -> np.ndarray:
    n_windows_B = torch.full((logits_WBK.shape[1],), len(logits_WBK))
    return pool_windows(torch.from_numpy(logits_WBK), n_windows_B, task, pooling).numpy()


@given(st.integers(1, 200), st.data())
def test_windows_cover_every_timestep_and_stay_inside(n_timesteps: int, data: Any) -> None:
    crop = data.draw(st.integers(1, n_timesteps))
    stride = data.draw(st.none() | st.integers(1, crop))
    found = starts(TrainConfig(crop_timesteps=crop, window_stride=stride), n_timesteps)
    seen = np.zeros(n_timesteps, dtype=bool)
    for start in found:
        assert 0 <= start <= n_timesteps - crop
        seen[start : start + crop] = True
    assert seen.all()
    assert len(set(found)) == len(found)


def test_windows_of_the_benchmark_are_seven() -> None:
    config = TrainConfig(crop_timesteps=250, window_stride=125)
    assert starts(config, 1000) == [0, 125, 250, 375, 500, 625, 750]


def test_a_record_shorter_than_a_window_has_one() -> None:
    assert starts(TrainConfig(crop_timesteps=250), 1) == [0]
    assert starts(TrainConfig(crop_timesteps=250), 249) == [0]


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_windows_are_pooled_in_probabilities(pooling: Any) -> None:
    reduce: Any = {"max": np.max, "mean": np.mean}[pooling]
    assert np.allclose(expit(pool(LOGITS, "multilabel", pooling)), reduce(expit(LOGITS), axis=0), atol=1e-6)
    expected = reduce(softmax(LOGITS, axis=2), axis=0)
    pooled = pool(LOGITS, "multiclass", pooling)
    assert np.allclose(softmax(pooled, axis=1), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


def test_confident_windows_do_not_overflow() -> None:
    extreme = np.full((3, 2, 2), 500.0, np.float32)
    assert np.array_equal(pool(extreme, "multilabel", "mean"), extreme[0])


def test_regression_takes_the_mean_of_its_windows() -> None:
    assert np.allclose(pool(LOGITS, "regression", "mean"), LOGITS.mean(axis=0), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=6),
    st.sampled_from([*LABEL_SETS]),
    st.sampled_from(["max", "mean"]),
    st.integers(1, 64),
    st.integers(1, 64),
)
def test_a_record_padded_with_zeros_is_answered_as_the_bare_one(
    lengths: list[int], task: Any, pooling: Any, crop: int, stride: int
) -> None:
    ecg = np.random.default_rng(0).normal(size=(len(lengths), 3, 64)).astype(np.float32)
    for row, length in enumerate(lengths):
        ecg[row, :, length:] = 0
    label_set, labels = LABEL_SETS[task], np.zeros((len(lengths), 1), np.float32)
    model = Summary(label_set.n_outputs)
    config = TrainConfig(crop_timesteps=crop, window_stride=min(stride, crop), window_pooling=pooling)
    together = predict(model, TinySplit(ecg, labels, tuple(lengths)), config, label_set)
    for row, length in enumerate(lengths):
        bare = TinySplit(ecg[row : row + 1, :, : max(length, crop)].copy(), labels[:1].copy(), (length,))
        alone = predict(model, bare, config, label_set)
        expected = probabilities(alone, task)
        assert probabilities(together[row : row + 1], task) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_windows_without_signal_are_left_out() -> None:
    ecg = np.zeros((1, 3, 64), np.float32)
    ecg[0, 0] = -1.0
    ecg[0, 0, 30:] = 0.0  # a window there would answer 0, above all others
    split = TinySplit(ecg, np.zeros((1, 1), np.float32), lengths=(30,))
    config = TrainConfig(crop_timesteps=10, window_pooling="max")
    assert predict(FirstTimestep(), split, config, LABEL_SETS["binary"]).tolist() == [[-1.0]]


def test_predictions_are_in_the_splits_order_and_ranks_add_up() -> None:
    dataset = tiny_dataset()
    config = TrainConfig(crop_timesteps=20, window_stride=20, window_pooling="max")
    whole = predict(FirstTimestep(), dataset.val, config, dataset.label_set, batch_size=7)
    ecg = next(iter(dataset.val.batches(1000))).ecg_BLT
    assert np.allclose(whole[:, 0], ecg[:, 0, [0, 20, 40, 44]].max(axis=1))
    parts = [
        predict(FirstTimestep(), dataset.val, config, dataset.label_set, batch_size=7, rank=rank, world_size=3)
        for rank in range(3)
    ]
    assert np.array_equal(sum(parts), whole)


def test_thresholds_fitted_on_validation_are_used_on_test() -> None:
    dataset = tiny_dataset()
    config = TrainConfig(threshold_rule="youden")
    validation = evaluate(FirstTimestep(), dataset.val, config, dataset.label_set)
    assert dataset.test is not None
    test = evaluate(FirstTimestep(), dataset.test, config, dataset.label_set, validation.thresholds_K)
    assert test.thresholds_K is validation.thresholds_K
    called = test.predicted_NK[:, 0] >= validation.thresholds_K[0]
    truth = test.labels_NK[:, 0] == 1
    assert test.scores.macro["recall"] == pytest.approx(called[truth].mean())


def test_thresholds_are_fitted_on_the_probabilities_pooled_over_windows() -> None:
    dataset = tiny_dataset()
    config = TrainConfig(threshold_rule="youden", crop_timesteps=16, window_pooling="max")
    validation = evaluate(FirstTimestep(), dataset.val, config, dataset.label_set)
    pooled = expit(predict(FirstTimestep(), dataset.val, config, dataset.label_set)).astype(np.float64)
    assert validation.thresholds_K == pytest.approx(fit_thresholds(pooled, dataset.val.labels_NK, config))
    single = expit(next(iter(dataset.val.batches(1000))).ecg_BLT[:, 0, :1]).astype(np.float64)
    assert validation.thresholds_K != pytest.approx(fit_thresholds(single, dataset.val.labels_NK, config))


def test_a_model_that_has_diverged_is_refused() -> None:
    class Diverged(nn.Module):
        def forward(self, ecg_BLT: Tensor) -> Tensor:
            return ecg_BLT[:, 0, :1] * float("nan")

    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(Diverged(), tiny_dataset().val, TrainConfig(), LABEL_SETS["binary"])
