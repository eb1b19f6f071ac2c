"""Fine-tuning HuBERT-ECG: what is frozen and when, rates, and the faults of the published code that are not ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from data.dataset import LabelSet
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.hubert_ecg import FineTuning, HubertEcgClassifier, HubertEcgConfig, build_model, is_frozen, train
from trainables.losses import balanced_weights
from trainables.plain_trial import PlainTrial
from trainables.step import Step
from trainables.trial import State


def config_of(**params: Any) -> HubertEcgConfig:
    return HubertEcgConfig.model_validate({"epochs": 2, "batch_size": 16, "lr": 1e-3, **params})


class KeptTrial(PlainTrial):
    """Keeps a copy of the weights after each epoch."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def report(self, epoch: int, metrics: Any, state: Any) -> None:
        kept: State = state()
        self.weights[epoch] = {name: tensor.clone() for name, tensor in kept["model"].items()}
        super().report(epoch, metrics, state)


ALL = {"feature_extractor", "feature_projection", "encoder.pos_conv_embed", "head"}
ALL |= {f"encoder.layers.{number}" for number in range(3)}


def moved(trial: KeptTrial, first: int, last: int) -> set[str]:
    """Return the parts of the network that changed between two epochs."""
    names = {name for name, tensor in trial.weights[first].items() if not tensor.equal(trial.weights[last][name])}
    names = {name.removeprefix("hubert.") for name in names}
    return {part for part in ALL for name in names if name.startswith(part)}


@pytest.mark.parametrize(
    ("params", "trained"),
    [
        ({}, ALL),
        ({"freeze_encoder": True}, {"head"}),
        ({"freeze_convs": True}, ALL - {"feature_extractor"}),
        ({"frozen_blocks": 2}, {"encoder.layers.2", "head"}),
    ],
)
def test_what_is_frozen_stays_and_the_rest_moves(params: dict[str, Any], trained: set[str]) -> None:
    trial = KeptTrial()
    train(config_of(**params), tiny_dataset(n_train=32, n_val=16), trial)
    assert moved(trial, 1, 2) == trained


def test_a_freeze_that_ends_leaves_schedule_and_optimiser_alone() -> None:
    """The published code builds both anew at every step after it: the rate stays in its warm-up, and nothing moves."""
    dataset = tiny_dataset(n_train=32, n_val=16)  # two steps an epoch
    params = {"epochs": 4, "schedule": "linear"}
    frozen, free = KeptTrial(), KeptTrial()
    train(config_of(**params, freeze_encoder=True, freeze_steps=4), dataset, frozen)
    train(config_of(**params), dataset, free)
    assert moved(frozen, 1, 2) == {"head"}
    assert moved(frozen, 2, 3) == moved(frozen, 3, 4) == ALL
    rates = [[trial.reports[epoch]["lr"] for epoch in range(1, 5)] for trial in (frozen, free)]
    assert rates[0] == rates[1]


def test_layers_have_their_own_rates() -> None:
    config = config_of(size="base", lower_lr_scale=0.01, head_lr_scale=10.0)
    plain: Any = None
    step: Step = FineTuning(plain, torch.nn.Module(), config, n_layers=12)
    layer = "hubert.encoder.layers.{}.attention.q_proj.weight"
    assert [step.lr_scale(layer.format(number)) for number in (0, 7, 8, 11)] == [0.01, 0.01, 1.0, 1.0]
    assert step.lr_scale("hubert.feature_projection.projection.weight") == 0.01
    assert step.lr_scale("head.1.weight") == 10.0


def test_evaluation_is_the_same_twice_and_covers_every_record() -> None:
    """With windows, a model of crops tiles each record: no random crop, no dropped last batch."""
    reports = []
    for _ in range(2):
        trial = PlainTrial(5)
        train(config_of(crop_timesteps=48, epochs=1), tiny_dataset(n_train=32, n_val=19), trial)
        reports.append({name: value for name, value in trial.reports[1].items() if name.startswith("val/")})
    assert reports[0] == reports[1]


def test_multiclass_weights_go_by_class_and_not_by_rank_of_frequency() -> None:
    labels_NK = np.array([[2.0]] * 6 + [[0.0]] * 3 + [[1.0]] * 1, np.float32)
    weights_K = balanced_weights(labels_NK, LabelSet("x", "multiclass", ("a", "b", "c")))
    assert weights_K == pytest.approx([10 / 9, 10 / 3, 10 / 18])


def test_multilabel_weights_are_negatives_over_positives() -> None:
    labels_NK = np.array([[1, 0], [1, 1], [0, 0], [1, 0]], np.float32)
    assert balanced_weights(labels_NK, LabelSet("x", "multilabel", ("a", "b"))) == pytest.approx([1 / 3, 3.0])


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"freeze_steps": 5}, "freeze_steps needs freeze_encoder"),
        ({"freeze_encoder": True, "frozen_blocks": 1}, "leave out freeze_convs and frozen_blocks"),
        ({"upper_blocks": 2}, "upper_blocks needs a lower_lr_scale below 1"),
    ],
)
def test_options_that_would_do_nothing_are_refused(params: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        config_of(**params)


def test_more_frozen_blocks_than_layers_are_refused() -> None:
    dataset = tiny_dataset()
    with pytest.raises(ValueError, match="must not exceed the 3 layers of tiny, but got 4"):
        build_model(config_of(frozen_blocks=4), dataset.signal, dataset.label_set)


def test_presets_have_the_published_values() -> None:
    guide, paper = (HubertEcgConfig.model_validate({"preset": name}) for name in ("guide", "paper"))
    assert (guide.epochs, guide.batch_size, guide.lr, guide.freeze_encoder) == (50, 16, 1e-5, False)
    assert (paper.batch_size, paper.lr, paper.beta2, paper.adam_eps, paper.schedule) == (64, 1e-5, 0.98, 1e-9, "linear")
    assert paper.freeze_convs and paper.class_weights == "balanced" and paper.encoder_dropout == 0
    assert HubertEcgConfig.model_validate(paper.model_dump()) == paper


def test_every_dropout_of_the_transformer_is_the_one_that_is_set() -> None:
    dataset = tiny_dataset()
    model = build_model(config_of(encoder_dropout=0.3), dataset.signal, dataset.label_set)
    assert isinstance(model, HubertEcgClassifier)
    encoder = model.hubert.encoder
    rates = {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates | {layer.attention.dropout for layer in encoder.layers} == {0.3}


def test_frozen_names_are_of_the_encoder_alone() -> None:
    assert not is_frozen("head.1.weight", config_of(freeze_encoder=True))
    assert is_frozen("hubert.encoder.layers.0.attention.q_proj.weight", config_of(frozen_blocks=1))
    assert not is_frozen("hubert.encoder.layers.1.attention.q_proj.weight", config_of(frozen_blocks=1))
