"""Folders of sweeps that never ran, with models whose weights are random: for tests of what comes after a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.card import DataCard
from data.ingest import ingest_serially
from data.loading import DataConfig, build_plan, read_dataset
from data.store import read_manifest
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.models.trained_model import DATA_CARD_NAME, TrainedModel, read_trained_model
from platform.sweeps.journal import Journal
from trainables.checkpoint import save_weights
from trainables.evaluation import evaluate
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx
from trainables.tune_trial import BEST_FILE
from trainables.windows import window_signal

PARAMS = {"model": "cnn", "depth": 2, "channels": 4, "norm": "batch", "dropout": 0.0, "lr": 1e-3}
SYNTHETIC: dict[str, Any] = {"task": "morphology", "n_records": 300, "n_leads": 12, "fs_hz": 50, "duration_s": 3}


def make_store(folder: Path, **synthetic: Any) -> Path:
    """Write a synthetic store of twelve leads, of 300 records of 3 s unless told otherwise."""
    ingest_serially(SyntheticReader(SyntheticConfig.model_validate({**SYNTHETIC, **synthetic})), folder)
    return folder


def make_sweep(
    folder: Path,
    store: Path,
    seed: int = 0,
    trials: Sequence[str] = ("t0000",),
    preprocess: Sequence[Any] = ({"zscore": {"per": "lead"}},),
    params: dict[str, Any] | None = None,
    labels: str | None = None,
    data: dict[str, Any] | None = None,
) -> Path:
    """Write what a sweep of `trials` leaves, the first of which is the best and was tested; without MLflow.

    Args:
        data: further keys of the spec's `data`.
    """
    folder.mkdir(parents=True)
    keys = {"store": str(store), "preprocess": list(preprocess), "labels": labels, **(data or {})}
    config = DataConfig.model_validate(keys)
    dataset: Any = read_dataset(config)
    dataset = dataclasses.make_dataclass("Loaded", ["plan", "statistics"])(build_plan(config), dataset.statistics)
    card = DataCard.of(config, dataset, read_manifest(store).fingerprint)
    (folder / DATA_CARD_NAME).write_text(card.model_dump_json(), encoding="utf-8")
    journal = Journal(folder)
    journal.append("opened", spec={"method": "supervised", "seed": 3})
    for number, trial in enumerate(trials):
        _add_trial(folder, journal, trial, seed + number, {**PARAMS, **(params or {})}, card)
    _conclude(read_trained_model(folder, trials[0]), config, journal)
    journal.append("closed", reason="done")
    journal.close()
    return folder


def _add_trial(folder: Path, journal: Journal, trial: str, seed: int, params: dict[str, Any], card: DataCard) -> None:
    static = {"parameters": 1000.0, "onnx_bytes": 4000.0}
    number = int(trial[1:])
    journal.append("proposed", trial, number=number, params=params, sampled={}, distributions={}, static=static)
    journal.append("started", trial, attempt=1)
    journal.append("reported", trial, epoch=1, metrics={"val/auroc": 0.9, "peak_memory_bytes": 2e8})
    journal.append("ended", trial, state="COMPLETED")
    torch.manual_seed(seed)
    method = METHODS["supervised"]
    model = method.build_model(method.parse_config(params), card.signal, card.label_set)
    notes = {"epoch": "1", "thresholds": str([0.5] * card.label_set.n_outputs)}
    (folder / "trials" / trial).mkdir(parents=True)
    save_weights(folder / "trials" / trial / BEST_FILE, model.state_dict(), notes)


def _conclude(trained: TrainedModel, config: DataConfig, journal: Journal) -> None:
    assert trained.run is not None
    best, card = trained.run / "best", trained.card
    best.mkdir()
    save_weights(best / "model.safetensors", trained.model.state_dict())
    export_onnx(trained.model, window_signal(trained.config, card.data.signal), best / "model.onnx")
    (best / "config.json").write_text(card.model_dump_json(), encoding="utf-8")
    split = read_dataset(config, ("test",)).dataset.test
    assert split is not None
    result = evaluate(trained.model, split, trained.config, card.data.label_set, card.thresholds_K)
    np.savez(
        best / PREDICTIONS_FILE,
        record_ids=split.record_ids,
        patient_ids=split.patient_ids,
        labels_NK=result.labels_NK,
        predicted_NK=result.predicted_NK,
        thresholds_K=result.thresholds_K,
    )
    journal.append("tested", card.trial, look=1, metrics=dict(result.scores.macro), intervals={})
