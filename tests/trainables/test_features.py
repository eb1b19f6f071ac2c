"""What frozen functions make of records is computed once, for the right records, and changes no number."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from data.config import DataConfig
from data.dataset import Dataset, Source
from data.ingest import ingest_serially
from data.loading import load
from data.synthetic import SyntheticConfig, SyntheticReader
from tests.trainables.spread import CPU, Spread
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.backbones.backbone import build_backbone
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.evaluation import evaluate
from trainables.features import FeatureCache, digest_of, frozen_prefix, with_cached_prefix
from trainables.plain_trial import PlainTrial
from trainables.trainer import fit


def dataset_at(folder: Path) -> Dataset:
    return replace(tiny_dataset(), source=Source(folder / "tiny", "fingerprint", "preprocessing"))


# ------------------------------------------------------------------ files


def test_answers_are_computed_once_and_shared_memory_mapped(tmp_path: Path) -> None:
    dataset, spread = dataset_at(tmp_path), Spread()
    assert dataset.source is not None
    cache = FeatureCache.beside(dataset.source)
    for _ in range(3):
        features_NL = cache.get(spread.frozen, dataset.train, dataset.source)
    assert spread.n_records == dataset.train.n_records == 96
    assert isinstance(features_NL, np.memmap)
    assert not features_NL.flags.writeable
    (batch,) = dataset.train.batches(96)
    np.testing.assert_allclose(features_NL, batch.ecg_BLT.std(axis=2, ddof=1), rtol=1e-5)
    assert [path.suffix for path in sorted(cache.folder.iterdir())] == [".lock", ".npy"]


@pytest.mark.parametrize(
    "changed",
    [
        lambda function, source, dataset: (replace(function, digest="other"), source, dataset.train),
        lambda function, source, dataset: (function, replace(source, fingerprint="other"), dataset.train),
        lambda function, source, dataset: (function, replace(source, preprocessing="other"), dataset.train),
        lambda function, source, dataset: (function, source, dataset.val),
    ],
    ids=["function", "store", "preprocessing", "records"],
)
def test_answers_are_kept_apart_by_all_that_they_follow_from(changed: Callable[..., Any], tmp_path: Path) -> None:
    dataset, function = dataset_at(tmp_path), Spread().frozen
    assert dataset.source is not None
    cache = FeatureCache(tmp_path)
    other_function, other_source, other_split = changed(function, dataset.source, dataset)
    path = cache.path_of(function, dataset.train, dataset.source)
    assert cache.path_of(other_function, other_split, other_source) != path
    moved = replace(dataset.source, store=tmp_path / "elsewhere")
    assert cache.path_of(function, dataset.train, moved) == path


def test_a_digest_follows_every_bit_of_parameters_and_buffers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    digests = [digest_of([module])]
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.view(-1)[-1] += 1
        digests.append(digest_of([module]))
    digests.append(digest_of([module], "a fact"))
    assert len(set(digests)) == len(digests)
    assert digest_of([module], "a fact") == digests[-1]


def test_trials_that_want_the_same_at_once_compute_it_once(tmp_path: Path) -> None:
    dataset, spread = dataset_at(tmp_path), Spread()
    assert dataset.source is not None
    source, together = dataset.source, threading.Barrier(4)
    found: list[Any] = []

    def trial() -> None:
        together.wait()
        found.append(np.array(FeatureCache(tmp_path / "f").get(spread.frozen, dataset.train, source)))

    threads = [threading.Thread(target=trial) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spread.n_records == 96
    assert all(np.array_equal(features, found[0]) for features in found)


def test_a_trial_that_ends_midway_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    dataset, spread = dataset_at(tmp_path), Spread()
    assert dataset.source is not None
    cache = FeatureCache(tmp_path / "f")

    def interrupted(ecg_BLT: Tensor) -> Tensor:
        if spread(ecg_BLT).shape[0] < 64:  # the second batch
            raise KeyboardInterrupt
        return ecg_BLT.std(dim=2)

    with pytest.raises(KeyboardInterrupt):
        cache.get(replace(spread.frozen, compute=interrupted), dataset.train, dataset.source)
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert len(cache.get(spread.frozen, dataset.train, dataset.source)) == 96


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_disk_without_room_is_refused_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = dataset_at(tmp_path)
    assert dataset.source is not None
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 8_000, 2_000))
    cache = FeatureCache(tmp_path / "f")  # 96 records x 3 leads x 4 bytes = 1,152
    with pytest.raises(ValueError, match=r"features take 1\.15e-06 GB, and at most half of .*feature_cache: off"):
        cache.get(Spread().frozen, dataset.train, dataset.source)
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    dataset = dataset_at(tmp_path)
    assert dataset.source is not None
    (tmp_path / "tiny.features").write_text("a file, not a folder")
    with pytest.raises(ValueError, match=r"tiny\.features \(File exists\); make room"):
        FeatureCache.beside(dataset.source).get(Spread().frozen, dataset.train, dataset.source)


def test_a_data_set_knows_its_store_and_how_its_records_were_prepared(tmp_path: Path) -> None:
    synthetic = {"task": "rhythm", "n_records": 100, "n_leads": 1, "fs_hz": 100, "duration_s": 2}
    ingest_serially(SyntheticReader(SyntheticConfig.model_validate(synthetic)), tmp_path / "s")
    sources = []
    bandpass = {"bandpass": {"low_hz": 1, "high_hz": 40}}
    for steps in ([], [{"zscore": {"per": "lead"}}], [{"zscore": {"per": "global"}}], [bandpass]):
        data = {"store": str(tmp_path / "s"), "labels": "rhythm", "preprocess": steps}
        sources.append(load(DataConfig.model_validate(data)).source)
    assert all(source is not None and source.store == tmp_path / "s" for source in sources)
    assert len({source.fingerprint for source in sources if source}) == 1
    assert len({source.preprocessing for source in sources if source}) == 4


# ------------------------------------------------------------------ models


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
    files = [np.load(path) for path in (tmp_path / "tiny.features").glob("*.npy")]
    assert sorted(file.shape for file in files) == [(48, *shape), (96, *shape)]


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
