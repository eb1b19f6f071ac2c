"""The method `atml`: its widths, its original recipe, and fresh weights for every trial."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.atml import AtmlConfig, train
from trainables.candidates import CANDIDATES
from trainables.plain_trial import PlainTrial


def config(**params: Any) -> AtmlConfig:
    return AtmlConfig.model_validate(params)


@pytest.mark.parametrize("s", range(1, 6))
def test_the_two_factors_are_those_of_the_original(s: int) -> None:
    """AFNet's second phase: filters (1, 2, 4, 8, 8) s, a hidden layer of 5 f units."""
    for f in range(1, 6):
        scaled = config(widths="factors", channel_factor=s, fc_factor=f)
        assert scaled.resolved_channels == (s, 2 * s, 4 * s, 8 * s, 8 * s)
        assert scaled.resolved_fc_width == 5 * f


@pytest.mark.parametrize("name", CANDIDATES)
def test_factors_of_4_and_2_are_the_published_widths(name: str) -> None:
    published, scaled = config(model=name), config(model=name, widths="factors")
    assert scaled.resolved_channels == published.resolved_channels == CANDIDATES[name].channels
    assert scaled.resolved_fc_width == published.resolved_fc_width == CANDIDATES[name].fc_width


def test_widths_are_given_layer_by_layer() -> None:
    as_list = config(widths="layers", channels=[3, 5, 7, 11, 13], fc_width=6)
    assert (as_list.resolved_channels, as_list.resolved_fc_width) == ((3, 5, 7, 11, 13), 6)
    some = config(widths="layers", channels={"layer1": 3, "layer5": 13})
    assert (some.resolved_channels, some.resolved_fc_width) == ((3, 8, 16, 32, 13), 10)


def test_a_candidate_that_splits_channels_keeps_two() -> None:
    assert config(model="TinyShuffleNet", widths="factors", channel_factor=1).resolved_channels == (2, 2, 4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"channel_factor": 3}, "channel_factor works only with widths: factors"),
        ({"widths": "factors", "fc_width": 4}, "fc_width works only with widths: layers"),
        ({"widths": "factors", "channel_factor": 6}, "less than or equal to 5"),
        ({"widths": "layers", "channels": [4, 8]}, "one width a layer, 5 for AFNet, but got 2"),
        ({"widths": "layers", "channels": {"layer6": 4}}, "AFNet has 5 layers with filters, but got layer6"),
        ({"widths": "layers", "channels": {"first": 4}}, "should match pattern"),
        ({"model": "ShuffleNetV2", "widths": "factors", "fc_factor": 1}, "no hidden fully connected layer, but got 1"),
        ({"model": "ShuffleNetV2", "widths": "layers", "fc_width": 8}, "no hidden fully connected layer, but got 8"),
        ({"model": "LinearBinaryClassifier", "widths": "factors", "channel_factor": 1}, "no filters to multiply"),
        ({"model": "AFnet"}, "Input should be 'AFNet'"),
    ],
)
def test_a_width_that_does_nothing_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**params)


def test_the_defaults_are_the_original_recipe() -> None:
    found = config().model_dump()
    original = {
        "optimizer": "adamw", "weight_decay": 0.001, "schedule": "plateau", "decay_factor": 0.5, "decay_epochs": 3,
        "batch_size": 32, "lr": 0.0015, "early_stopping": "plateau_and_gap", "patience": 3, "min_gap": 0.01,
    }  # fmt: skip
    assert {key: found[key] for key in original} == original


def test_a_trial_does_not_depend_on_the_trials_before_it() -> None:
    """The original kept one model for all learning rates, so that each went on from the last one's weights."""

    def loss_after_an_epoch(lr: float) -> float:
        trial = PlainTrial(seed=5)
        train(config(model="OptimizedAFNet", epochs=1, lr=lr), tiny_dataset(), trial)
        return trial.reports[1]["val/loss"]

    alone = loss_after_an_epoch(1e-3)
    loss_after_an_epoch(1e-1)
    assert loss_after_an_epoch(1e-3) == alone


def test_every_report_tells_whether_the_classifier_has_learnt_anything() -> None:
    """At a learning rate of nearly nothing a fresh network calls all records alike, or nearly so."""
    dataset, trial = tiny_dataset(n_train=32), PlainTrial(seed=5)
    train(config(model="OptimizedAFNet", epochs=1, lr=1e-9), dataset, trial)
    report = trial.reports[1]
    assert report["val/degenerate"] == float(min(report["val/recall"], report["val/specificity"]) == 0)
    assert report["val/subject_accuracy"] == pytest.approx(report["val/accuracy"])  # a record a patient here
