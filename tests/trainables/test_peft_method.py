"""Training by `method: peft`: exact resuming, AdaLoRA's budget, rates, and normalisation inside the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.back_propagation import BackPropagation
from trainables.losses import build_criterion
from trainables.normalisation import GlobalStandardise
from trainables.peft_method import PEFT, PeftConfig, PeftStep, build_model, train
from trainables.plain_trial import PlainTrial
from trainables.trial import TrialStopped

MEASURED = {"epoch_s", "peak_memory_bytes", "process_peak_bytes"}
SMALL: dict[str, Any] = {
    "backbone": "ecg_fm", "lead_placement": "mean", "resample_factor": 4.0, "batch_size": 16, "lr": 3e-3, "epochs": 4,
}  # fmt: skip


def run(trial: PlainTrial, **params: Any) -> PlainTrial:
    train(PeftConfig.model_validate({**SMALL, **params}), tiny_dataset(n_train=40, n_val=20), trial)
    return trial


def reports(trial: PlainTrial) -> list[dict[str, float]]:
    return [{k: v for k, v in report.items() if k not in MEASURED} for report in trial.reports.values()]


@pytest.mark.parametrize(
    "params",
    [{"tuning": "adalora", "rank": 2}, {"tuning": "dora", "dropout": 0.1}, {"tuning": "vera"}, {"tuning": "houlsby"}],
    ids=lambda params: params["tuning"],
)
def test_a_resumed_trial_continues_bit_for_bit(params: dict[str, Any], tmp_path: Path) -> None:
    whole = run(PlainTrial(5, tmp_path / "whole"), **params)
    with pytest.raises(TrialStopped):
        run(PlainTrial(5, tmp_path / "cut", stop_after=2), **params)
    torch.manual_seed(999)  # a resumed trial owes nothing to the process it runs in
    rest = run(PlainTrial(5, tmp_path / "cut"), **params)
    assert reports(rest) == reports(whole)[2:]


def test_adalora_ends_with_its_rank_a_layer_on_average_and_begins_with_half_as_much_again(tmp_path: Path) -> None:
    state = run(PlainTrial(5, tmp_path), tuning="adalora", rank=2).restore()
    assert state is not None
    values = [tensor for name, tensor in state["model"].items() if "lora_E" in name]
    assert len(values) == 6  # query and value of three layers
    assert sum(len(tensor) for tensor in values) == 3 * 6
    assert sum(int((tensor != 0).sum()) for tensor in values) == 2 * 6


def test_a_checkpoint_holds_what_is_trained_and_no_more(tmp_path: Path) -> None:
    trial = run(PlainTrial(5, tmp_path), tuning="lora", epochs=1)
    state = trial.restore()
    assert state is not None
    saved = sum(tensor.numel() for name, tensor in state["model"].items() if name != "frozen_digest")
    assert saved == trial.reports[1]["trainable_parameters"] < 0.05 * trial.reports[1]["parameters"]


def test_head_and_pooling_have_a_rate_of_their_own() -> None:
    dataset = tiny_dataset(n_train=40, n_val=20)
    config = PeftConfig.model_validate({**SMALL, "pooling": "layer_sum", "lr": 1e-3, "head_lr": 5e-3})
    model = build_model(config, dataset.signal, dataset.label_set)
    criterion = build_criterion(config, dataset.label_set, dataset.train.labels_NK)
    step = PeftStep(BackPropagation(model, criterion, config, PlainTrial(5)), config, model, n_steps=10)
    scales = {name: step.lr_scale(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    own = {name for name, scale in scales.items() if scale == 5}
    assert own == {"backbone.pool.combine.logit_K", "head.1.weight", "head.1.bias"}
    assert {scales[name] for name in scales.keys() - own} == {1.0}


def signal_and_labels() -> tuple[Any, Any]:
    dataset = tiny_dataset()
    return dataset.signal, dataset.label_set


# ------------------------------------------------------------------ normalisation


def test_global_statistics_are_those_of_the_training_records_and_leave_padding_alone() -> None:
    train_split = tiny_dataset(n_train=40).train
    module = GlobalStandardise()
    module.fit(train_split, n_leads=3, batch_size=7)
    (batch,) = train_split.batches(40)
    ecg_BLT = torch.from_numpy(batch.ecg_BLT)
    assert float(module(ecg_BLT).mean()) == pytest.approx(0, abs=1e-5)
    assert float(module(ecg_BLT).std(unbiased=False)) == pytest.approx(1, abs=1e-5)
    ecg_BLT[:, :, 50:] = 0
    assert torch.equal(module(ecg_BLT)[:, :, 50:], torch.zeros(40, 3, 14))


def test_a_constant_data_set_becomes_zero() -> None:
    dataset = tiny_dataset(n_train=4)
    constant = replace(dataset.train, ecg_NLT=np.full((4, 3, 64), 0.5, np.float32))  # type: ignore[type-var]
    module = GlobalStandardise()
    module.fit(constant, n_leads=3)
    assert torch.equal(module(torch.full((1, 3, 64), 0.5)), torch.zeros(1, 3, 64))


def test_global_statistics_travel_with_the_checkpoint(tmp_path: Path) -> None:
    state = run(PlainTrial(5, tmp_path), normalisation="global", epochs=1).restore()
    assert state is not None
    ecg = tiny_dataset(n_train=40, n_val=20).train.batches(40)
    values = next(iter(ecg)).ecg_BLT
    assert float(state["model"]["normalise.mean"]) == pytest.approx(values.mean(), abs=1e-6)
    assert float(state["model"]["normalise.scale"]) == pytest.approx(1 / values.std(), rel=1e-5)


def test_global_normalisation_of_standardised_windows_is_refused() -> None:
    signal, label_set = signal_and_labels()
    with pytest.raises(ValueError, match="normalisation: global is undone by the z-score of each window"):
        PEFT.build_model(
            PeftConfig.model_validate({**SMALL, "normalisation": "global"}),
            replace(signal, standardise_windows=True),
            label_set,
        )
