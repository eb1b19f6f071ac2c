"""Codebooks: k-means over token features, whose clusters are the pseudo-labels of masked prediction.

Rows are normalised to unit length when a codebook is fitted AND when it labels; centroids are plain numbers in a
safetensors file. N: records, F: tokens, M: tokens of several records, D: features, C: clusters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from data.feature_store import FeatureStore, Part, lists_of, rows_of
from data.store_folder import REQUEST_NAME, new_folder

CENTROIDS_NAME: Final = "centroids.safetensors"
LABELS_FOLDER: Final = "labels"
PADDING: Final = -1  # the label of a token that is no signal
SMALLEST_NORM: Final = 1e-12


class ClusterConfig(BaseModel):
    """How k-means is fitted. Defaults are HuBERT-ECG's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_clusters: int = Field(100, ge=2, le=32_767, description="clusters")
    batch_records: int = Field(100, ge=1, description="records a mini-batch", json_schema_extra={"unit": "records"})
    n_init: int = Field(20, ge=1, description="k-means++ starts; that with the least inertia on one batch is taken")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="of the starts and the order of the records")


class Quality(BaseModel):
    """How good clusters are; means over batches but for the inertia, which is a mean over tokens.

    Attributes:
        davies_bouldin: less is better (Davies and Bouldin 1979).
        calinski_harabasz: more is better (Calinski and Harabasz 1974).
        inertia: squared distance of a token to its centroid, of rows of unit length.
        used: share of the clusters that have any token.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    davies_bouldin: float
    calinski_harabasz: float
    inertia: float
    used: float


@dataclass(frozen=True)
class Codebook:
    """Centroids of rows of unit length, centroids_CD, and what the features are (`FeatureManifest.made_by`)."""

    centroids_CD: NDArray[np.float32]
    made_by: dict[str, Any]

    @property
    def num_clusters(self) -> int:
        return len(self.centroids_CD)

    def label(self, features_MD: NDArray[np.float32]) -> NDArray[np.int16]:
        """Return the nearest centroid of each row."""
        return self.nearest(unit_rows(features_MD))[0]

    def distances(self, features_MD: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the squared distance of each row, at unit length, to its nearest centroid."""
        return self.nearest(unit_rows(features_MD))[1]

    def nearest(self, unit_MD: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Return the nearest centroid of each row of unit length, and the squared distance to it."""
        # |x - c|^2 = |x|^2 + |c|^2 - 2 x.c, and |x|^2 is the same for all centroids
        half_C = (self.centroids_CD**2).sum(axis=1) / 2
        scores_MC = unit_MD @ self.centroids_CD.T - half_C
        label_M = scores_MC.argmax(axis=1)
        best_M = np.take_along_axis(scores_MC, label_M[:, None], axis=1)[:, 0]
        squared_M = np.maximum(0, (unit_MD**2).sum(axis=1) - 2 * best_M)
        return label_M.astype(np.int16), squared_M

    def save(self, path: Path) -> None:
        """Write the centroids as safetensors, with what the features are in the header."""
        save_file({"centroids": self.centroids_CD}, path, {"made_by": json.dumps(self.made_by)})

    @staticmethod
    def load(path: Path) -> Codebook:
        """Read a codebook from its file, or from the folder that has it.

        Raises:
            ValueError: there is none.
        """
        path = path / CENTROIDS_NAME if path.is_dir() else path
        try:
            with safe_open(path, "numpy") as file:
                return Codebook(file.get_tensor("centroids"), json.loads(file.metadata()["made_by"]))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no codebook ({error}); fit one first: searchspaces/hubert_ecg_clusters.yaml"
            ) from None


def unit_rows(features_MD: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return every row at unit length; a row of zeros stays."""
    norm_M1 = np.linalg.norm(features_MD, axis=1, keepdims=True)
    return np.asarray(features_MD / np.maximum(norm_M1, SMALLEST_NORM), np.float32)


class KMeans:
    """Mini-batch k-means (Sculley 2010, scikit-learn's) that is fed pass by pass.

    The published code asks scikit-learn for 20 starts and then calls `partial_fit`, which makes a single one; here the
    best of `n_init` on the first batch is taken.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self._model: Any = None

    def fit_pass(self, batches: Iterable[NDArray[np.float32]]) -> None:
        """Take in every batch of features_MD once.

        Raises:
            ValueError: the first batch has fewer tokens than there are clusters.
        """
        for features_MD in batches:
            unit_MD = unit_rows(features_MD)
            if self._model is None:
                self._start(unit_MD)
            self._model.partial_fit(unit_MD)

    def _start(self, unit_MD: NDArray[np.float32]) -> None:
        from sklearn.cluster import MiniBatchKMeans, kmeans_plusplus  # takes a second to import

        config = self._config
        if len(unit_MD) < config.num_clusters:
            raise ValueError(
                f"the first batch must have num_clusters = {config.num_clusters} tokens at least, but has "
                f"{len(unit_MD)}; take more batch_records"
            )
        seeds = np.random.SeedSequence(config.seed).generate_state(config.n_init + 1).tolist()
        starts = [kmeans_plusplus(unit_MD, config.num_clusters, random_state=seed)[0] for seed in seeds[:-1]]
        inertia = [Codebook(start, {}).distances(unit_MD).sum() for start in starts]
        self._model = MiniBatchKMeans(
            n_clusters=config.num_clusters,
            init=starts[int(np.argmin(inertia))],
            n_init=1,
            reassignment_ratio=0,
            random_state=seeds[-1],
        )

    def codebook(self, made_by: dict[str, Any]) -> Codebook:
        """Return the centroids so far."""
        assert self._model is not None, "fit_pass comes first"
        return Codebook(np.array(self._model.cluster_centers_, np.float32), made_by)


def measure_quality(codebook: Codebook, batches: Iterable[NDArray[np.float32]]) -> Quality:
    """Measure a codebook on batches of features_MD; the indices as means over the batches, as HuBERT-ECG does.

    Raises:
        ValueError: no batch has two clusters, without which the indices are not defined.
    """
    from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score  # takes a second to import

    indices, squared, n_tokens, used = [], 0.0, 0, np.zeros(codebook.num_clusters, bool)
    for features_MD in batches:
        unit_MD = unit_rows(features_MD)
        label_M, squared_M = codebook.nearest(unit_MD)
        squared, n_tokens = squared + float(squared_M.sum(dtype=np.float64)), n_tokens + len(unit_MD)
        used[label_M] = True
        if 1 < len(np.unique(label_M)) < len(unit_MD):
            indices.append((davies_bouldin_score(unit_MD, label_M), calinski_harabasz_score(unit_MD, label_M)))
    if not indices:
        raise ValueError("no batch of tokens falls into two clusters or more; take more records or other features")
    davies_bouldin, calinski_harabasz = np.mean(indices, axis=0).tolist()
    return Quality(
        davies_bouldin=davies_bouldin,
        calinski_harabasz=calinski_harabasz,
        inertia=squared / n_tokens,
        used=float(used.mean()),
    )


def fit_codebook(features: FeatureStore, config: ClusterConfig, passes: int = 1) -> Codebook:
    """Fit k-means to the training records' tokens; memory does not grow with their number.

    Raises:
        ValueError: a batch has fewer tokens than there are clusters.
    """
    kmeans = KMeans(config)
    for number in range(passes):
        kmeans.fit_pass(features.batches("train", config.batch_records, config.seed + number))
    return kmeans.codebook(features.manifest.made_by)


def write_labels(codebook: Codebook, features: FeatureStore, out: Path, *, parallel: bool = True) -> None:
    """Label every record of `features`, and write codebook and labels to the folder `out`.

    Labels are Parquet, a file a shard as the features are: `record_id` and the cluster of each token, -1 for padding.

    Raises:
        ValueError: the codebook is of other features; `out` is not empty.
    """
    if codebook.made_by != features.manifest.made_by:
        raise ValueError(
            f"the codebook is of features {codebook.made_by}, but {features.folder} has "
            f"{features.manifest.made_by}; label the features that it was fitted to"
        )
    request = json.dumps([codebook.made_by, features.manifest.store, codebook.centroids_CD.tolist()])
    with new_folder(out, request) as folder:
        (folder / LABELS_FOLDER).mkdir(exist_ok=True)
        label = partial(_label_part, codebook=codebook, features=features, folder=folder / LABELS_FOLDER)
        if parallel:
            _label_parallel(label, features.manifest.parts)
        else:
            for part in features.manifest.parts:
                label(part)
        codebook.save(folder / CENTROIDS_NAME)
        (folder / REQUEST_NAME).unlink()


def _label_parallel(label: Any, parts: tuple[Part, ...]) -> None:
    from data.parallel import map_items, running_ray  # Ray takes a second to import, which a reader need not wait for

    with running_ray(len(parts)):
        for _ in map_items(partial(_label_item, label=label), parts):
            pass


def _label_item(row: dict[str, Any], label: Any) -> dict[str, Any]:
    label(row["item"])
    return {"index": row["index"]}


def _label_part(part: Part, codebook: Codebook, features: FeatureStore, folder: Path) -> None:
    ids: list[str] = []
    labels = []
    for record_ids, (features_NFD, valid_NF) in features.records(part):
        ids += record_ids
        label_NF = codebook.label(features_NFD.reshape(-1, features_NFD.shape[2])).reshape(valid_NF.shape)
        labels.append(np.where(valid_NF, label_NF, np.int16(PADDING)))
    pq.write_table(pa.table({"record_id": ids, "labels": lists_of(np.concatenate(labels))}), folder / part.file)


def read_labels(folder: Path, record_ids: NDArray[np.str_]) -> NDArray[np.int16]:
    """Return labels_NF of the given records from a folder that `write_labels` wrote.

    Raises:
        ValueError: there are no labels, or a record has none.
    """
    files = sorted((folder / LABELS_FOLDER).glob("*.parquet"))
    if not files:
        raise ValueError(
            f"{folder} has no labels of tokens; write them with the codebook: searchspaces/hubert_ecg_clusters.yaml"
        )
    place = {record: row for row, record in enumerate(record_ids.tolist())}
    labels_NF, found_N = None, np.zeros(len(record_ids), bool)
    for ids, label_RF in map(_read_part, files):
        if labels_NF is None:
            labels_NF = np.full((len(record_ids), label_RF.shape[1]), PADDING, np.int16)
        pairs = [(place[record], row) for row, record in enumerate(ids) if record in place]
        rows, sources = (list(each) for each in zip(*pairs, strict=True)) if pairs else ([], [])
        labels_NF[rows] = label_RF[sources]
        found_N[rows] = True
    if labels_NF is None or not found_N.all():
        missing = record_ids[int(np.argmin(found_N))]
        raise ValueError(
            f"{folder} has no labels of record {missing}: they are of another store or other folds; compute features "
            "and labels of this one"
        )
    return labels_NF


def _read_part(path: Path) -> tuple[list[str], NDArray[np.int16]]:
    table = pq.read_table(path, use_threads=False)
    return table["record_id"].to_pylist(), rows_of(table["labels"])
