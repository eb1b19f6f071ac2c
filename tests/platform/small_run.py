"""A sweep's folder with two trials of a network that was trained for a second, made without Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from data.card import DataCard
from data.config import DataConfig
from data.ingest import ingest_serially
from data.loading import build_plan, read_dataset
from data.store import read_manifest
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.models.trained_model import (
    BEST_FOLDER,
    CARD_NAME,
    DATA_CARD_NAME,
    TRIALS_FOLDER,
    WEIGHTS_NAME,
    read_trained_model,
)
from platform.sweeps.journal import Journal
from trainables.checkpoint import save_weights
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx
from trainables.plain_trial import PlainTrial
from trainables.tune_trial import BEST_FILE
from trainables.windows import window_signal

TINY_CNN = {"model": "cnn", "depth": 2, "channels": 4, "norm": "layer", "dropout": 0.0, "batch_size": 32, "lr": 1e-2}
TWELVE_LEADS = {"task": "morphology", "n_records": 120, "fs_hz": 50, "duration_s": 3}


@dataclass(frozen=True)
class SmallRun:
    """Where the run and its store are."""

    folder: Path
    store: Path


def make_store(folder: Path, **synthetic: Any) -> Path:
    """Make a store of synthetic records."""
    config = SyntheticConfig.model_validate({**TWELVE_LEADS, **synthetic})
    ingest_serially(SyntheticReader(config), folder / "store")
    return folder / "store"


def make_run(
    folder: Path,
    store: Path,
    preprocess: Sequence[Mapping[str, Any]],
    epochs: int = 3,
    labels: str | None = None,
    **params: Any,
) -> SmallRun:
    """Make `folder/runs/tiny-001`: t0000, the best, trained for some epochs; t0001, whose weights are random."""
    config = DataConfig.model_validate({"store": str(store), "preprocess": preprocess, "labels": labels})
    loaded = read_dataset(config)
    shared: Any = SimpleNamespace(plan=build_plan(config), statistics=loaded.statistics)
    card = DataCard.of(config, shared, read_manifest(store).fingerprint)
    run = folder / "runs" / "tiny-001"
    run.mkdir(parents=True)
    (run / DATA_CARD_NAME).write_text(card.model_dump_json(), encoding="utf-8")
    journal, flat = Journal(run), {**TINY_CNN, "epochs": epochs, **params}
    journal.append("opened", spec={"method": "supervised", "seed": 3})
    method = METHODS["supervised"]
    for number, name in enumerate(("t0000", "t0001")):
        torch.manual_seed(number)
        parsed = method.parse_config(flat)
        weights = method.build_model(parsed, card.signal, card.label_set).state_dict()
        thresholds = [0.5] * card.label_set.n_outputs
        metrics = {"val/auroc": 0.5}
        if number == 0:
            trial = PlainTrial(seed=1, folder=folder)
            method.train(parsed, loaded.dataset, trial)
            state = trial.restore()
            assert state is not None
            weights, thresholds = state["model"], state["thresholds"]
            metrics = {key: value for key, value in trial.reports[epochs].items() if key.startswith("val/")}
        journal.append("proposed", name, number=number, params=flat, sampled={}, distributions={}, static={})
        journal.append("reported", name, epoch=epochs, metrics=metrics)
        journal.append("ended", name, state="COMPLETED")
        (run / TRIALS_FOLDER / name).mkdir(parents=True)
        notes = {"epoch": str(epochs), "thresholds": json.dumps(list(map(float, thresholds)))}
        save_weights(run / TRIALS_FOLDER / name / BEST_FILE, weights, notes)
    journal.close()
    _write_best(run)
    return SmallRun(run, store)


def _write_best(run: Path) -> None:
    trained, best = read_trained_model(run, "t0000"), run / BEST_FOLDER
    best.mkdir()
    (best / CARD_NAME).write_text(trained.card.model_dump_json(), encoding="utf-8")
    save_weights(best / WEIGHTS_NAME, trained.model.state_dict())
    export_onnx(trained.model, window_signal(trained.config, trained.card.data.signal), best / "model.onnx")
