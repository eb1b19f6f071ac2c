"""Features on disk, k-means over them, labels: the same with and without Ray, and normalised alike throughout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from data.codebook import (
    PADDING,
    ClusterConfig,
    Codebook,
    KMeans,
    fit_codebook,
    measure_quality,
    read_labels,
    unit_rows,
    write_labels,
)
from data.config import DataConfig
from data.feature_store import FeatureStore, write_features
from data.ingest import ingest_serially
from data.loading import load
from data.synthetic import SyntheticConfig, SyntheticReader
from data.token_features import FeatureConfig, extract_features
from data.tokens import TokenGrid

GRID = TokenGrid(12, 500, 100.0)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    synthetic = SyntheticConfig(task="rhythm", n_records=200, n_leads=12, fs_hz=100, duration_s=5)
    store = tmp_path_factory.mktemp("codebook") / "store"
    ingest_serially(SyntheticReader(synthetic), store, n_records_per_shard=60)
    return DataConfig(store=str(store), labels="none")


@pytest.fixture(scope="module")
def features(config: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    options = FeatureConfig(feature_type="time_freq")
    extract = partial(extract_features, grid=GRID, config=options)
    out = tmp_path_factory.mktemp("features") / "time_freq"
    return write_features(config, extract, options.model_dump(mode="json"), out, parallel=False)


def test_every_training_and_validation_record_has_its_features_and_no_test_record_has(
    config: DataConfig, features: FeatureStore
) -> None:
    dataset = load(config)
    assert features.manifest.n_records("train") == dataset.train.n_records
    assert features.manifest.n_records("val") == dataset.val.n_records
    ids = [record for part in features.manifest.parts for record, *_ in [pq.read_table(features.folder / part.file)]]
    assert sum(map(len, ids)) == dataset.train.n_records + dataset.val.n_records


def test_what_is_read_is_what_the_extractor_computes(config: DataConfig, features: FeatureStore) -> None:
    batch = next(load(config).train.batches(16))
    expected, _ = extract_features(batch.ecg_BLT, batch.length_B, GRID, FeatureConfig(feature_type="time_freq"))
    found = next(features.batches("train", 16))
    np.testing.assert_allclose(found, expected.reshape(-1, 16)[: len(found)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", [None, 3])
def test_a_pass_has_every_token_once(features: FeatureStore, seed: int | None) -> None:
    in_order = np.concatenate(list(features.batches("train", 32)))
    passed = np.concatenate(list(features.batches("train", 32, seed)))
    assert passed.shape == (features.manifest.n_records("train") * 93, 16)
    np.testing.assert_allclose(np.sort(passed.sum(axis=1)), np.sort(in_order.sum(axis=1)))


def test_ray_writes_the_same_features_and_labels(
    config: DataConfig, features: FeatureStore, tmp_path: Path, ray_cluster: None
) -> None:
    options = FeatureConfig(feature_type="time_freq")
    extract = partial(extract_features, grid=GRID, config=options)
    other = write_features(config, extract, options.model_dump(mode="json"), tmp_path / "features")
    assert other.manifest == features.manifest
    for part in features.manifest.parts:
        assert pq.read_table(other.folder / part.file).equals(pq.read_table(features.folder / part.file))
    codebook = fit_codebook(features, ClusterConfig(num_clusters=5, n_init=2))
    write_labels(codebook, features, tmp_path / "a")
    write_labels(codebook, features, tmp_path / "b", parallel=False)
    ids = load(config).train.record_ids
    np.testing.assert_array_equal(read_labels(tmp_path / "a", ids), read_labels(tmp_path / "b", ids))


def blobs(seed: int, n: int = 400) -> np.ndarray:
    """Rows that point in one of four directions, at lengths from 1 to 100."""
    rng = np.random.default_rng(seed)
    directions = np.eye(4, 6)[rng.integers(0, 4, n)] + rng.normal(0, 0.02, (n, 6))
    return (directions * rng.uniform(1, 100, (n, 1))).astype(np.float32)


def test_labels_do_not_depend_on_a_rows_length_in_fitting_nor_in_labelling() -> None:
    """The published code fits on rows of unit length and labels rows as they are."""
    kmeans = KMeans(ClusterConfig(num_clusters=4, n_init=3))
    kmeans.fit_pass(blobs(seed) for seed in range(3))
    codebook = kmeans.codebook({})
    rows = blobs(9)
    directions = rows[:, :4].argmax(axis=1)
    labels = codebook.label(rows)
    assert len({(int(d), int(c)) for d, c in zip(directions, labels, strict=True)}) == 4
    np.testing.assert_array_equal(codebook.label(1000 * rows), labels)
    distance = np.linalg.norm(unit_rows(rows)[:, None] - codebook.centroids_CD, axis=2)
    np.testing.assert_array_equal(labels, distance.argmin(axis=1))
    np.testing.assert_allclose(codebook.distances(rows), distance.min(axis=1) ** 2, atol=1e-5)


def test_quality_is_scikit_learns_averaged_over_batches() -> None:
    codebook = Codebook(unit_rows(blobs(0)[:4]), {})
    batches = [blobs(1), blobs(2, 100)]
    quality = measure_quality(codebook, batches)
    labelled = [(unit_rows(rows), codebook.label(rows)) for rows in batches]
    assert quality.davies_bouldin == pytest.approx(np.mean([davies_bouldin_score(*each) for each in labelled]))
    assert quality.calinski_harabasz == pytest.approx(np.mean([calinski_harabasz_score(*each) for each in labelled]))
    assert 0 < quality.used <= 1


def test_a_codebook_is_read_back_without_pickle(features: FeatureStore, config: DataConfig, tmp_path: Path) -> None:
    codebook = fit_codebook(features, ClusterConfig(num_clusters=7, n_init=2))
    write_labels(codebook, features, tmp_path / "codebook", parallel=False)
    again = Codebook.load(tmp_path / "codebook")
    np.testing.assert_array_equal(again.centroids_CD, codebook.centroids_CD)
    assert again.made_by == features.manifest.made_by
    val = load(config).val
    labels_NF = read_labels(tmp_path / "codebook", val.record_ids)
    assert labels_NF.shape == (val.n_records, 93)
    batch = next(val.batches(4))
    expected, _ = extract_features(batch.ecg_BLT, batch.length_B, GRID, FeatureConfig(feature_type="time_freq"))
    np.testing.assert_array_equal(labels_NF[:4], again.label(expected.reshape(-1, 16)).reshape(4, 93))
    assert (labels_NF != PADDING).all()


def test_what_is_missing_is_named(features: FeatureStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no features, as it has no features\.json; .*hubert_ecg_features\.yaml"):
        FeatureStore.open(tmp_path)
    with pytest.raises(ValueError, match=r"is no codebook .*hubert_ecg_clusters\.yaml"):
        Codebook.load(tmp_path)
    with pytest.raises(ValueError, match="num_clusters = 5000 tokens at least"):
        fit_codebook(features, ClusterConfig(num_clusters=5000, batch_records=16))
    codebook = fit_codebook(features, ClusterConfig(num_clusters=3, n_init=1))
    write_labels(codebook, features, tmp_path / "codebook", parallel=False)
    with pytest.raises(ValueError, match="no labels of record stranger: they are of another store"):
        read_labels(tmp_path / "codebook", np.array(["stranger"]))
    with pytest.raises(ValueError, match="the codebook is of features"):
        write_labels(Codebook(codebook.centroids_CD, {}), features, tmp_path / "other", parallel=False)


def test_features_do_not_follow_a_scaling_over_all_records(config: DataConfig, tmp_path: Path) -> None:
    late = DataConfig.model_validate({**config.model_dump(), "preprocess": [{"zscore": {"per": "global"}}]})
    with pytest.raises(ValueError, match="per: global"):
        write_features(late, partial(extract_features, grid=GRID, config=FeatureConfig()), {}, tmp_path / "out")
