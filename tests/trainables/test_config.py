"""The parameters of the shared trainer: typed, documented, and refused where they contradict each other."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.trainables.tiny_dataset import LABEL_SETS, tiny_dataset
from trainables.config import TrainConfig, check_config, resolve_loss
from trainables.supervised import SupervisedConfig

SIGNAL = tiny_dataset().signal


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rate": 1e-3}, "learning_rate"),
        ({"lr": 0.0}, "greater than 0"),
        ({"lr": "1e-3"}, "valid number"),
        ({"lr": float("nan")}, "finite"),
        ({"batch_size": 2.5}, "valid integer"),
        (
            {"momentum": 0.5},
            r"momentum works only with optimizer: rmsprop, sgd; got momentum=0.5 and optimizer='adamw'",
        ),
        ({"focal_gamma": 1.0}, "focal_gamma works only with loss: focal"),
        ({"huber_delta": 2.0, "loss": "mae"}, "huber_delta works only with loss: huber"),
        ({"schedule": "one_cycle", "warmup_epochs": 1.0}, "warmup_epochs works only with schedule"),
        ({"patience": 5}, "patience works only with early_stopping: plateau, plateau_and_gap"),
        ({"early_stopping": "plateau", "min_gap": 0.1}, "min_gap works only with early_stopping: plateau_and_gap"),
        ({"threshold_sensitivity": 0.8}, "threshold_sensitivity works only with threshold_rule"),
        ({"batch_size": 4, "accumulate_steps": 8}, "accumulate_steps must not exceed batch_size"),
        ({"epochs": 2, "warmup_epochs": 2.0}, "warmup_epochs must be below epochs"),
        ({"window_stride": 10}, "window_stride needs crop_timesteps"),
        ({"window_stride": 10, "crop_timesteps": 5}, "must not exceed crop_timesteps"),
    ],
)
def test_a_parameter_that_cannot_work_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"channels": 8}, "channels works only with model: cnn"),
        ({"model": "cnn", "kernel_size": 4}, "kernel_size must be odd"),
        ({"model": "cnn", "channels": [8, 16]}, "one width a layer, but got 2 widths and depth=4"),
        ({"model": "resnet"}, "xresnet1d18"),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SupervisedConfig(**params)


@pytest.mark.parametrize(
    ("task", "params", "message"),
    [
        ("binary", {"loss": "mse"}, "loss for binary labels must be one of auto, bce, focal, but got 'mse'"),
        ("regression", {"loss": "bce"}, "loss for regression"),
        ("regression", {"label_smoothing": 0.1}, "label_smoothing has no meaning for regression"),
        ("regression", {"class_weights": "balanced"}, "class_weights has no meaning"),
        ("regression", {"window_pooling": "max"}, "window_pooling has no meaning"),
        ("multiclass", {"threshold_rule": "youden"}, "threshold_rule has no meaning for multiclass"),
        ("binary", {"crop_timesteps": 65}, "crop_timesteps must not exceed the records' 64 timesteps"),
    ],
)
def test_a_parameter_that_does_not_suit_the_data_is_refused(task: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_config(TrainConfig(**params), SIGNAL, LABEL_SETS[task])


@pytest.mark.parametrize(
    ("task", "loss"), [("binary", "bce"), ("multilabel", "bce"), ("multiclass", "cross_entropy"), ("regression", "mse")]
)
def test_the_automatic_loss_follows_the_task(task: Any, loss: str) -> None:
    assert resolve_loss(TrainConfig(), task) == loss


def test_a_config_survives_a_round_trip_through_json() -> None:
    config = SupervisedConfig(model="cnn", channels=(8, 16, 16, 8), epochs=3, clip_norm=1.0)
    assert SupervisedConfig.model_validate_json(config.model_dump_json()) == config
    assert SupervisedConfig.model_validate(config.model_dump(mode="json")) == config
