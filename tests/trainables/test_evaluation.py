"""Prediction over windows, and evaluation with thresholds from validation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from torch import Tensor, nn

from tests.trainables.tiny_dataset import LABEL_SETS, tiny_dataset
from trainables.config import TrainConfig
from trainables.evaluation import evaluate, pool_windows, predict
from trainables.windows import window_starts

LOGITS = np.random.default_rng(0).normal(0, 4, (5, 7, 3)).astype(np.float32)  # windows, records, outputs


class FirstTimestep(nn.Module):
    """The first timestep of lead 0 as the only logit: which windows were seen is plain."""

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return ecg_BLT[:, 0, :1]


@given(st.integers(1, 200), st.data())
def test_windows_cover_every_timestep_and_stay_inside(n_timesteps: int, data: Any) -> None:
    crop = data.draw(st.integers(1, n_timesteps))
    stride = data.draw(st.none() | st.integers(1, crop))
    starts = window_starts(TrainConfig(crop_timesteps=crop, window_stride=stride), n_timesteps)
    seen = np.zeros(n_timesteps, dtype=bool)
    for start in starts:
        assert 0 <= start <= n_timesteps - crop
        seen[start : start + crop] = True
    assert seen.all()
    assert len(set(starts)) == len(starts)


def test_windows_of_the_benchmark_are_seven() -> None:
    config = TrainConfig(crop_timesteps=250, window_stride=125)
    assert window_starts(config, 1000) == (0, 125, 250, 375, 500, 625, 750)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_windows_are_pooled_in_probabilities(pooling: Any) -> None:
    reduce: Any = {"max": np.max, "mean": np.mean}[pooling]
    pooled = pool_windows(torch.from_numpy(LOGITS), "multilabel", pooling).numpy()
    assert np.allclose(expit(pooled), reduce(expit(LOGITS), axis=0), atol=1e-6)
    pooled = pool_windows(torch.from_numpy(LOGITS), "multiclass", pooling).numpy()
    expected = reduce(softmax(LOGITS, axis=2), axis=0)
    assert np.allclose(softmax(pooled, axis=1), expected / expected.sum(axis=1, keepdims=True), atol=1e-6)


def test_confident_windows_do_not_overflow() -> None:
    extreme = torch.full((3, 2, 2), 500.0)
    assert torch.equal(pool_windows(extreme, "multilabel", "mean"), extreme[0])


def test_regression_takes_the_mean_of_its_windows() -> None:
    assert np.allclose(pool_windows(torch.from_numpy(LOGITS), "regression", "mean"), LOGITS.mean(axis=0), atol=1e-6)


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


def test_a_model_that_has_diverged_is_refused() -> None:
    class Diverged(nn.Module):
        def forward(self, ecg_BLT: Tensor) -> Tensor:
            return ecg_BLT[:, 0, :1] * float("nan")

    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(Diverged(), tiny_dataset().val, TrainConfig(), LABEL_SETS["binary"])
