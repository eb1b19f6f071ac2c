"""The contract of every pretraining method: it learns, resumes exactly, shares a batch among workers, and embeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from data.dataset import NO_LABELS, Dataset
from tests.trainables.pretraining.pretraining_run import (
    EXACT,
    MEASURED,
    dataset_of,
    make_codebooks,
    params_of,
    pretrain,
)
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx
from trainables.plain_trial import PlainTrial
from trainables.pretraining.config import PretrainConfig, TokenPretrainConfig
from trainables.trial import TrialStopped

WIDTHS = {"hubert_ecg_pretrain": 96, "contrastive_pretrain": 96, "forecasting_pretrain": 12 * 50}
PRETRAINING = [name for name, method in METHODS.items() if "unlabelled" in method.tasks]

pytestmark = pytest.mark.parametrize("name", PRETRAINING)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    make_codebooks(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return dataset_of(folder)


def test_its_config_is_typed_frozen_documented_and_refuses_unknown_keys(name: str) -> None:
    config_type = METHODS[name].config
    assert issubclass(config_type, PretrainConfig)
    with pytest.raises(ValidationError, match="not_a_parameter"):
        config_type.model_validate({"not_a_parameter": 1})
    for key, info in config_type.model_fields.items():
        assert info.description and info.description.endswith("."), key
        assert not info.is_required(), key
    for governed, (governor, _) in config_type.governed.items():
        assert {governed, governor} <= set(config_type.model_fields)
    for preset in config_type.presets:
        assert set(config_type.presets[preset]) <= set(config_type.model_fields)
        config_type(preset=preset)


def test_it_learns_and_reports_what_it_says(name: str, folder: Path, dataset: Dataset) -> None:
    reports = pretrain(name, folder, dataset, PlainTrial(3), epochs=4)
    assert set(reports[1]) | MEASURED == METHODS[name].reports("unlabelled")
    assert reports[4]["train/loss"] < reports[1]["train/loss"]
    assert reports[4]["val/loss"] < reports[1]["val/loss"]


def test_a_resumed_trial_continues_bit_for_bit(name: str, folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    params: dict[str, Any] = {"epochs": 4, "dynamic_regularisation": True, "schedule": "linear"}
    params |= {"layerdrop": 0.3} if issubclass(METHODS[name].config, TokenPretrainConfig) else {}
    params |= {"early_stopping": "plateau", "patience": 4, "min_delta": 0.5}
    whole = pretrain(name, folder, dataset, PlainTrial(3, tmp_path / "whole"), **params)
    with pytest.raises(TrialStopped):
        pretrain(name, folder, dataset, PlainTrial(3, tmp_path / "cut", stop_after=2), **params)
    rest = pretrain(name, folder, dataset, PlainTrial(3, tmp_path / "cut"), **params)
    assert rest == {epoch: report for epoch, report in whole.items() if epoch > 2}


def test_its_model_embeds_records_and_goes_to_onnx(name: str, folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    trial = PlainTrial(3, tmp_path)
    pretrain(name, folder, dataset, trial, epochs=1)
    state = trial.restore()
    assert state is not None
    config = METHODS[name].config(**params_of(name, folder))
    model = METHODS[name].build_model(config, dataset.signal, NO_LABELS)
    model.load_state_dict(state["model"])
    assert model(torch.zeros(2, 12, 125)).shape == (2, WIDTHS[name])
    assert export_onnx(model, dataset.signal, tmp_path / "model.onnx") < 1e-4


@pytest.mark.slow
def test_two_workers_equal_one(name: str, folder: Path, dataset: Dataset, tmp_path: Path) -> None:
    """In batches of 15 shares differ. Noise in a forward pass is each worker's own: it is switched off."""
    exact = {"batch_size": 15} | ({} if name == "forecasting_pretrain" else EXACT)  # DLinear has no dropout
    if name == "contrastive_pretrain":
        pytest.skip("negatives and codes are drawn in the forward pass, in each worker alone")
    alone = pretrain(name, folder, dataset, PlainTrial(3), **exact)
    torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
        _train_rank, args=(name, folder, exact, tmp_path), nprocs=2
    )
    together = torch.load(tmp_path / "reports.pt", weights_only=True)
    for epoch in alone:
        assert together[epoch] == pytest.approx(alone[epoch], rel=1e-3)


def _train_rank(rank: int, name: str, folder: Path, params: dict[str, Any], out: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meet", rank=rank, world_size=2)
    reports = pretrain(name, folder, dataset_of(folder), PlainTrial(3, rank=rank, world_size=2), **params)
    if rank == 0:
        torch.save(reports, out / "reports.pt")
    dist.destroy_process_group()
