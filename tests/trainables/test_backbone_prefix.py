"""The frozen beginning of a backbone: kept features change no number, and are shared where they are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from data.dataset import Dataset, Source
from tests.trainables.spread import CPU
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.backbone_prefix import frozen_prefix, with_cached_prefix
from trainables.backbones.backbone import build_backbone
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.evaluation import evaluate
from trainables.plain_trial import PlainTrial
from trainables.trainer import fit


def dataset_at(folder: Path) -> Dataset:
    return replace(tiny_dataset(), source=Source(folder / "tiny", "fingerprint", "preprocessing"))


def config_of(**params: Any) -> BackboneConfig:
    defaults = {"resample_factor": 16.0, "epochs": 3, "batch_size": 16, "lr": 1e-3, "encoder_dropout": 0.2}
    return BackboneConfig.model_validate({**defaults, **params})


def model_of(config: BackboneConfig, dataset: Dataset, n_trained: int = 0) -> BackboneClassifier:
    """Build a model whose last `n_trained` layers, pooling and head are trained."""
    torch.manual_seed(5)
    backbone = build_backbone(config, dataset.signal)
    backbone.network.requires_grad_(False)
    for layer in list(backbone.layers)[backbone.n_layers - n_trained :]:
        layer.requires_grad_(True)
    head = nn.Linear(backbone.hidden_size, dataset.label_set.n_outputs)
    return BackboneClassifier(backbone, head, replace(dataset.signal, standardise_windows=True), dataset.label_set)


def run(config: BackboneConfig, dataset: Dataset, n_trained: int) -> tuple[BackboneClassifier, list[dict[str, float]]]:
    model, trial = model_of(config, dataset, n_trained), PlainTrial(3)
    fit(model, config, with_cached_prefix(model, config, dataset, CPU), trial)
    return model, list(trial.reports.values())


@pytest.mark.parametrize(
    ("params", "n_trained", "shape"),
    [
        ({}, 0, (96,)),
        ({"pooling": "attention"}, 0, (1, 1, 9, 96)),
        ({"pooling": "layer_sum"}, 0, (1, 4, 96)),
        ({"pooling": "layer_sum", "backbone": "ecg_fm", "lead_placement": "mean"}, 1, (1, 3, 64, 96)),
        (
            {"backbone": "hubert", "lead_placement": "each", "lead_pooling": "max", "resample_factor": 32.0},
            2,
            (3, 1, 6, 96),
        ),
    ],
)
def test_cached_and_uncached_give_the_same_numbers(
    params: dict[str, Any], n_trained: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    dataset = dataset_at(tmp_path)
    cached_model, cached = run(config_of(**params), dataset, n_trained)
    _, plain = run(config_of(**params, feature_cache="off"), dataset, n_trained)
    assert cached_model.start == cached_model.backbone.n_stages - (
        0 if shape == (96,) else 1 if not n_trained else 2 + n_trained
    )
    for name in ("train/loss", "val/loss", "val/auroc"):
        np.testing.assert_allclose([r[name] for r in cached], [r[name] for r in plain], rtol=2e-4, err_msg=name)
    kept = [np.load(path) for path in (tmp_path / "tiny.features").rglob("*.npy") if ".ids." not in path.name]
    assert sorted(each.shape for each in kept) == [(48, *shape), (96, *shape)]


def test_a_checkpoint_of_a_cached_training_answers_for_whole_records(tmp_path: Path) -> None:
    dataset, config = dataset_at(tmp_path), config_of()
    trained, reports = run(config, dataset, 1)
    whole = model_of(config, dataset, 1)
    whole.load_state_dict(trained.state_dict())
    assert trained.start > whole.start == 0
    evaluation = evaluate(whole, dataset.val, config, dataset.label_set)
    assert evaluation.scores.macro["auroc"] == pytest.approx(reports[-1]["val/auroc"], abs=1e-6)


@pytest.mark.parametrize(
    "params",
    [
        {"feature_cache": "off"},
        {"noise_mv": 0.1},
        {"amplitude_scale": 0.1},
        {"lead_dropout": 0.1},
        {"baseline_wander_mv": 0.1},
        {"mixup_alpha": 0.2},
        {"cutmix_alpha": 0.2},
        {"crop_timesteps": 48},
    ],
    ids=str,
)
def test_records_that_change_from_epoch_to_epoch_are_not_cached(params: dict[str, Any], tmp_path: Path) -> None:
    dataset, config = dataset_at(tmp_path), config_of(**params)
    model = model_of(config, dataset)
    assert with_cached_prefix(model, config, dataset, CPU) is dataset
    assert model.start == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_trained_from_the_first_stage_on_is_not_cached(tmp_path: Path) -> None:
    dataset, config = dataset_at(tmp_path), config_of()
    model = model_of(config, dataset).requires_grad_(True)
    assert with_cached_prefix(model, config, dataset, CPU) is dataset


def test_trials_that_differ_above_the_split_share_a_file_and_others_do_not(tmp_path: Path) -> None:
    dataset = dataset_at(tmp_path)

    def digest(n_trained: int = 1, **params: Any) -> str:
        config = config_of(**params)
        model = model_of(config, dataset, n_trained)
        return frozen_prefix(model, config, model.backbone.split_at(), CPU).digest

    same = [digest(), digest(lr=0.5), digest(encoder_dropout=0.0), digest(pooling="attention"), digest(batch_size=8)]
    assert len(set(same)) == 1
    others = [
        digest(n_trained=2),
        digest(pooling="layer_sum"),
        digest(resample_factor=32.0),
        digest(resample_factor=64.0, lead_placement="mean"),
        digest(backbone="hubert"),
        digest(precision="bf16"),
    ]
    assert len({same[0], *others}) == 7
