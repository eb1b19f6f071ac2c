"""The contract of every method, present and future: add one row to `TINY` and all of this holds for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from data.dataset import Task
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.config import TrainConfig
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx, static_quantities
from trainables.plain_trial import PlainTrial
from trainables.trial import TrialStopped
from trainables.windows import window_signal

MEASURED = {"epoch_s", "peak_memory_bytes", "process_peak_bytes"}
WORLD_SIZE = 2


@dataclass(frozen=True)
class Tiny:
    """How to run a method in seconds.

    Attributes:
        params: learns the tiny binary task within `params["epochs"]`.
        exact: added to `params`, leaves neither batch norm nor dropout, so that two workers equal one.
        onnx_tolerance: of the size known before training; an ONNX file stores equal tensors once, as frozen biases of
            random weights are, and pretrained ones are not. The parts of an ensemble have shorter names for themselves.
    """

    params: dict[str, Any]
    exact: dict[str, Any]
    onnx_tolerance: float = 0.0
    tasks: tuple[Task, ...] = field(default=("binary", "multilabel", "multiclass", "regression"))


TINY = {
    "adagrad_fusion": Tiny(
        params={"size": "nano", "tuning": "full", "epochs": 3, "batch_size": 16, "lr": 1e-2},
        exact={
            "tuning": "fused",
            "rank": 4,
            "bp_batch": 4,
            "zo_chunk": 8,
            "zo_eps": 1e-2,  # over a smaller one, rounding shows, which differs with the number of workers
            "cutmix_alpha": 0.0,
            "batch_size": 32,
        },
    ),
    "supervised": Tiny(
        params={"model": "cnn", "channels": 16, "depth": 3, "epochs": 4, "batch_size": 16, "lr": 1e-2},
        exact={"norm": "layer", "dropout": 0.0},
    ),
    "atml": Tiny(
        params={"model": "OptimizedAFNet", "epochs": 4, "batch_size": 8, "lr": 2e-2, "dropout": 0.1},
        exact={"model": "LinearBinaryClassifier", "dropout": 0.0},
    ),
    "enecg": Tiny(
        params={
            "experts": [{"kind": "moment"}, {"kind": "dlinear", "features": ["embeddings"]}],
            "gate_leads": "all",
            "head_width": 64,
            "epochs": 4,
            "batch_size": 16,
            "lr": 3e-3,
        },
        exact={"dropout": 0.0},
        onnx_tolerance=0.05,
    ),
    "hubert_ecg": Tiny(
        params={"size": "tiny", "epochs": 4, "batch_size": 16, "lr": 2e-3},
        exact={"dropout": 0.0, "encoder_dropout": 0.0},
    ),
    "peft": Tiny(
        params={
            "backbone": "ecg_fm",
            "lead_placement": "mean",
            "resample_factor": 4.0,
            "tuning": "last_layers",
            "n_layers": 2,
            "pooling": "layer_sum",
            "normalisation": "global",
            "epochs": 6,
            "batch_size": 16,
            "lr": 3e-3,
            "head_lr": 1e-2,
        },
        exact={"head_dropout": 0.0, "encoder_dropout": 0.0},
        onnx_tolerance=0.02,
    ),
}

# Pretraining has a contract of its own: tests/trainables/pretraining/test_pretraining_contract.py.
LEARNING = [name for name, method in METHODS.items() if "unlabelled" not in method.tasks]

STEPS = {"supervised", "adagrad_fusion"}  # one of each kind: back-propagation, and one that sums over ranks itself


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test for every method; of the ones with two processes, 15 s each, one a kind of step by default."""
    slow = set(LEARNING) - STEPS if metafunc.function is test_two_workers_equal_one else set()
    names = [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in LEARNING]
    metafunc.parametrize("name", names)


def train(name: str, trial: PlainTrial, task: Task = "binary", **params: Any) -> dict[int, dict[str, float]]:
    method = METHODS[name]
    config = method.config(**{**TINY[name].params, **params})
    method.train(config, tiny_dataset(task, n_train=97), trial)
    return {e: {k: v for k, v in r.items() if k not in MEASURED} for e, r in trial.reports.items()}


def test_its_config_is_typed_frozen_and_refuses_unknown_keys(name: str) -> None:
    config_type = METHODS[name].config
    assert issubclass(config_type, TrainConfig)
    config = config_type(**TINY[name].params)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, "lr", 1.0)  # noqa: B010  (the type checker knows it too)
    with pytest.raises(ValidationError, match="not_a_parameter"):
        config_type.model_validate({"not_a_parameter": 1})


def test_every_parameter_is_documented_and_has_a_default(name: str) -> None:
    for key, info in METHODS[name].config.model_fields.items():
        assert info.description and info.description.endswith("."), key
        assert not info.is_required(), key
        assert key == key.lower(), key
    for governed, (governor, _) in METHODS[name].config.governed.items():
        assert {governed, governor} <= set(METHODS[name].config.model_fields)


def test_it_learns_a_trivial_task_and_reports_every_epoch(name: str) -> None:
    reports = train(name, PlainTrial(seed=3))
    epochs = TINY[name].params["epochs"]
    assert list(reports) == list(range(1, epochs + 1))
    assert reports[epochs]["val/auroc"] > 0.95
    assert reports[epochs]["train/loss"] < reports[1]["train/loss"]


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_it_takes_the_tasks_it_says(name: str, task: Task) -> None:
    if task not in TINY[name].tasks:
        pytest.skip(f"{name} is not for {task}")
    reports = train(name, PlainTrial(seed=3), task, epochs=1)
    assert all(np.isfinite(value) for value in reports[1].values())
    assert set(reports[1]) | MEASURED == METHODS[name].reports(task)


def test_a_resumed_trial_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = train(name, PlainTrial(3, tmp_path / "whole"))
    with pytest.raises(TrialStopped):
        train(name, PlainTrial(3, tmp_path / "cut", stop_after=2))
    rest = train(name, PlainTrial(3, tmp_path / "cut"))
    assert rest == {epoch: report for epoch, report in whole.items() if epoch > 2}


def test_its_model_goes_to_onnx_and_its_size_is_known_before(name: str, tmp_path: Path) -> None:
    method, dataset = METHODS[name], tiny_dataset()
    config = method.config(**TINY[name].params)
    trial = PlainTrial(3, tmp_path)
    method.train(config, dataset, trial)
    state = trial.restore()
    assert state is not None
    assert len(state["thresholds"]) == dataset.label_set.n_outputs
    model = method.build_model(config, dataset.signal, dataset.label_set)
    model.load_state_dict(state["model"])
    model = method.finish(model)
    path = tmp_path / "model.onnx"
    assert export_onnx(model, window_signal(config, dataset.signal), path) < 1e-4
    expected = static_quantities(method, config, dataset.signal, dataset.label_set)
    reported = {name: trial.reports[1][name] for name in ("parameters", "trainable_parameters")}
    assert expected == {**reported, "onnx_bytes": pytest.approx(path.stat().st_size, rel=TINY[name].onnx_tolerance)}


def test_two_workers_equal_one(name: str, tmp_path: Path) -> None:
    """97 records in batches of 16: one worker's share of the last batch is empty; in batches of 15: shares differ."""
    variants: list[dict[str, Any]] = [
        TINY[name].exact,
        {**TINY[name].exact, "accumulate_steps": 3, "clip_norm": 0.5, "noise_mv": 0.1, "crop_timesteps": 32},
        {**TINY[name].exact, "batch_size": 15, "class_weights": "balanced", "label_smoothing": 0.1},
    ]
    alone = [train(name, PlainTrial(3), **variant) for variant in variants]
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _train_rank, args=(name, [*variants, {}], tmp_path), nprocs=WORLD_SIZE
    )
    together = torch.load(tmp_path / "reports.pt", weights_only=True)
    for expected, found in zip(alone, together, strict=False):
        for epoch in expected:
            assert found[epoch] == pytest.approx(expected[epoch], rel=1e-5)
    assert list(together[-1]) == list(alone[0])  # with batch norm and dropout: other figures, as many epochs


def _train_rank(rank: int, name: str, variants: list[dict[str, Any]], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD_SIZE)
    reports = [train(name, PlainTrial(3, rank=rank, world_size=WORLD_SIZE), **variant) for variant in variants]
    everyones: list[Any] = [None] * WORLD_SIZE
    dist.all_gather_object(everyones, reports)
    assert everyones[0] == everyones[1]  # ranks decide alike
    if rank == 0:
        torch.save(reports, folder / "reports.pt")
    dist.destroy_process_group()
