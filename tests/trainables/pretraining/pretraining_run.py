"""Small pretraining runs: a store, its codebooks, and how each method is run in seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from data.codebook import ClusterConfig, fit_codebook, write_labels
from data.config import DataConfig
from data.dataset import Dataset
from data.feature_store import write_features
from data.ingest import ingest_serially
from data.loading import load
from data.synthetic import SyntheticConfig, SyntheticReader
from data.token_features import FeatureConfig, extract_features
from data.tokens import TokenGrid
from trainables.methods import METHODS
from trainables.plain_trial import PlainTrial

MEASURED = {"epoch_s", "peak_memory_bytes", "process_peak_bytes", "tokens_per_s"}
EXACT = {"dropout": 0.0}

PARAMS: dict[str, dict[str, Any]] = {
    "hubert_ecg_pretrain": {"unmasked_weight": 0.5},
    "contrastive_pretrain": {
        "backbone": "ecg_fm", "cmsc_weight": 1.0, "lead_mask_prob": 0.5, "mask_span": 1,
        "n_negatives": 10, "code_size": 32, "codes_a_group": 20,
    },
    "forecasting_pretrain": {"network": "dlinear", "horizon": 50, "lr": 3e-4},
}  # fmt: skip

Reports = dict[int, dict[str, float]]


def make_codebooks(folder: Path) -> DataConfig:
    """Write a store of 2.5 s records at 50 Hz and codebooks of 4 and of 8 clusters; returns how to load it."""
    synthetic = SyntheticConfig(task="rhythm", n_records=120, n_leads=12, fs_hz=50, duration_s=2.5)
    ingest_serially(SyntheticReader(synthetic), folder / "store")
    config = DataConfig(store=str(folder / "store"), labels="none")
    options = FeatureConfig(feature_type="time_freq")
    extract = partial(extract_features, grid=TokenGrid(12, 125, 50.0), config=options)
    features = write_features(
        config, extract, options.model_dump(mode="json"), folder / "features" / "time_freq", parallel=False
    )
    for num_clusters in (4, 8):
        codebook = fit_codebook(features, ClusterConfig(num_clusters=num_clusters, n_init=2), passes=2)
        write_labels(codebook, features, folder / f"codebook{num_clusters}", parallel=False)
    return config


def pretrain(name: str, folder: Path, dataset: Dataset, trial: PlainTrial, **params: Any) -> Reports:
    """Run a method for two epochs, and return its reports without what is measured."""
    config = METHODS[name].config(**{"epochs": 2, "batch_size": 16, "lr": 1e-3, **params_of(name, folder), **params})
    METHODS[name].train(config, dataset, trial)
    return {e: {k: v for k, v in r.items() if k not in MEASURED} for e, r in trial.reports.items()}


def params_of(name: str, folder: Path) -> dict[str, Any]:
    """Return the parameters of a small run; masked prediction learns both codebooks at once."""
    own: dict[str, Any] = {}
    if name == "hubert_ecg_pretrain":
        own = {"codebooks": tuple(str(folder / f"codebook{number}") for number in (4, 8))}
    return {**PARAMS[name], **own}


def dataset_of(folder: Path) -> Dataset:
    return load(DataConfig(store=str(folder / "store"), labels="none"))
