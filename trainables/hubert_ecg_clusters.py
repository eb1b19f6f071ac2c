"""The step `hubert_ecg_clusters`: k-means over token features, and the label of every token."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from data.codebook import CENTROIDS_NAME, ClusterConfig, Codebook, KMeans, measure_quality, write_labels
from data.config import DataConfig
from data.feature_store import FeatureStore
from trainables.data_step import DataStep, StepResult, StepRun

FOLDER = "codebook"
MEASURES = ("davies_bouldin", "calinski_harabasz", "inertia", "used")


class HubertEcgClustersConfig(BaseModel):
    """The parameters of `step: hubert_ecg_clusters`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: str = Field(min_length=1, description="Folder of features, as the step hubert_ecg_features leaves it.")
    num_clusters: int = Field(
        100,
        ge=2,
        le=32_767,
        description="Clusters; HuBERT-ECG: 100 of signal features, 500 or 1,000 of an encoder's layer.",
        json_schema_extra={"unit": "clusters"},
    )
    batch_size: int = Field(100, ge=1, description="Records a mini-batch.", json_schema_extra={"unit": "records"})
    epochs: int = Field(1, ge=1, description="Passes over the training records.", json_schema_extra={"unit": "epochs"})
    n_init: int = Field(
        20, ge=1, description="k-means++ starts; that with the least inertia on the first mini-batch is taken."
    )


def run(config: HubertEcgClustersConfig, data: DataConfig, run: StepRun) -> StepResult:
    """Fit k-means to the training records' tokens, measure it on the validation records', and label both.

    Raises:
        ValueError: there are no features, or a mini-batch has fewer tokens than there are clusters.
    """
    features, out = FeatureStore.open(Path(config.features)), run.folder / FOLDER
    options = ClusterConfig(
        num_clusters=config.num_clusters, batch_records=config.batch_size, n_init=config.n_init, seed=run.seed % 2**32
    )
    if not (out / CENTROIDS_NAME).exists():
        codebook = _fit(features, options, config.epochs, run)
        write_labels(codebook, features, out)
    quality = measure_quality(Codebook.load(out), features.batches("val", config.batch_size))
    run.progress(config.epochs + 1, config.epochs + 1)
    return StepResult({FOLDER: out}, {name: getattr(quality, name) for name in MEASURES})


def _fit(features: FeatureStore, options: ClusterConfig, epochs: int, run: StepRun) -> Codebook:
    kmeans = KMeans(options)
    for number in range(epochs):
        kmeans.fit_pass(features.batches("train", options.batch_records, options.seed + number))
        run.progress(number + 1, epochs + 1)
    return kmeans.codebook(features.manifest.made_by)


HUBERT_ECG_CLUSTERS = DataStep("hubert_ecg_clusters", HubertEcgClustersConfig, (FOLDER,), frozenset(MEASURES), run)
