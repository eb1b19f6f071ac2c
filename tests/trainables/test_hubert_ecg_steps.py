"""The steps of HuBERT-ECG's chain, run one after another, and once more from an encoder's own layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.torch import save_file

from data.codebook import Codebook, read_labels
from data.config import DataConfig
from data.feature_store import FeatureStore
from data.ingest import ingest_serially
from data.loading import load
from data.synthetic import SyntheticConfig, SyntheticReader
from trainables.backbones.architecture import build_network
from trainables.data_step import StepResult
from trainables.data_steps import DATA_STEPS
from trainables.hubert_ecg_clusters import HubertEcgClustersConfig
from trainables.hubert_ecg_encoder import hubert_ecg_architecture
from trainables.hubert_ecg_features import HubertEcgFeaturesConfig, build_extract


@dataclass
class PlainRun:
    """A `trainables.data_step.StepRun` in a test."""

    folder: Path
    seed: int = 5
    seen: list[tuple[int, int]] = field(default_factory=list)

    def progress(self, done: int, total: int) -> None:
        self.seen.append((done, total))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    synthetic = SyntheticConfig(task="rhythm", n_records=100, n_leads=12, fs_hz=50, duration_s=5)
    store = tmp_path_factory.mktemp("steps") / "store"
    ingest_serially(SyntheticReader(synthetic), store, n_records_per_shard=40)
    return DataConfig(store=str(store), labels="none")


def run(name: str, data: DataConfig, folder: Path, **params: Any) -> tuple[StepResult, PlainRun]:
    folder.mkdir(exist_ok=True)
    step, plain = DATA_STEPS[name], PlainRun(folder)
    result = step.run(step.config(**params), data, plain)
    assert set(result.artefacts) == set(step.artefacts)
    assert set(result.measures) == step.measures
    return result, plain


def test_features_lie_beside_the_store_once_and_clusters_label_them(
    data: DataConfig, tmp_path: Path, ray_cluster: None
) -> None:
    first, progress = run("hubert_ecg_features", data, tmp_path / "a", feature_type="time_freq")
    assert progress.seen[-1][0] == progress.seen[-1][1] > 1
    again, silent = run("hubert_ecg_features", data, tmp_path / "b", feature_type="time_freq")
    assert silent.seen == []  # they are there already
    folder = first.artefacts["features"]
    assert folder.resolve() == again.artefacts["features"].resolve()
    assert folder.resolve().parent.name == "store.features"
    assert first.measures["features"] == 16
    clusters, _ = run("hubert_ecg_clusters", data, tmp_path / "c", features=str(folder), num_clusters=6, n_init=2)
    codebook = clusters.artefacts["codebook"]
    assert Codebook.load(codebook).num_clusters == 6
    labels_NF = read_labels(codebook, load(data).train.record_ids)
    assert labels_NF.shape[1] == 93 and labels_NF.max() == 5
    assert 0 < clusters.measures["davies_bouldin"] < 10
    resumed, _ = run("hubert_ecg_clusters", data, tmp_path / "c", features=str(folder), num_clusters=6, n_init=2)
    assert resumed.measures == clusters.measures


def test_an_encoders_layer_gives_the_features_of_the_next_iteration(
    data: DataConfig, tmp_path: Path, ray_cluster: None
) -> None:
    network = build_network(hubert_ecg_architecture("tiny", 50.0)).eval()
    save_file(network.state_dict(), tmp_path / "encoder.safetensors")
    params = {"feature_type": "latents", "encoder": str(tmp_path / "encoder.safetensors"), "layer": 2}
    result, _ = run("hubert_ecg_features", data, tmp_path / "a", **params)
    features = FeatureStore.open(result.artefacts["features"])
    assert features.manifest.n_features == 96
    batch = next(load(data).val.batches(8))
    extract = build_extract(HubertEcgFeaturesConfig.model_validate(params), data)
    expected = extract(batch.ecg_BLT, batch.length_B).features_NFD
    found = next(features.batches("val", 16))[: 5 * 93]
    np.testing.assert_allclose(found, expected.reshape(-1, 96)[: len(found)], atol=1e-4)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"feature_type": "latents"}, "encoder and feature_type: latents go together"),
        ({"encoder": "x"}, "encoder and feature_type: latents go together"),
        ({"feature_type": "latents", "encoder": "x", "layer": 4}, "must not exceed the 3 layers of tiny, but got 4"),
    ],
)
def test_options_that_do_not_go_together_are_refused(params: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        HubertEcgFeaturesConfig(**params)


def test_defaults_are_the_training_guides() -> None:
    assert HubertEcgFeaturesConfig().feature_type == "mfcc"
    assert HubertEcgClustersConfig(features="x").num_clusters == 100


@pytest.mark.parametrize("name", ["hubert_ecg_features", "hubert_ecg_clusters"])
def test_every_parameter_is_documented(name: str) -> None:
    for key, info in DATA_STEPS[name].config.model_fields.items():
        assert info.description and info.description.endswith("."), key
