"""The training loop: exact resuming, exact accumulation, early ends, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.dataset import Dataset, Split
from tests.trainables.tiny_dataset import LABEL_SETS, TinySplit, tiny_dataset
from trainables.back_propagation import BackPropagation
from trainables.losses import Criterion
from trainables.plain_trial import PlainTrial
from trainables.step import Step
from trainables.supervised import SupervisedConfig, build_model, train
from trainables.trainer import fit
from trainables.trial import TrialStopped

MEASURED = {"epoch_s", "peak_memory_bytes", "process_peak_bytes"}
SMALL: dict[str, Any] = {"model": "cnn", "channels": 8, "depth": 2, "batch_size": 16, "epochs": 3}
EXACT: dict[str, Any] = {**SMALL, "norm": "layer", "dropout": 0.0}


def run(dataset: Dataset, trial: PlainTrial | None = None, **params: Any) -> PlainTrial:
    trial = trial or PlainTrial(seed=5)
    train(SupervisedConfig(**params), dataset, trial)
    return trial


def losses(trial: PlainTrial) -> list[dict[str, float]]:
    return [{k: v for k, v in report.items() if k not in MEASURED} for report in trial.reports.values()]


RESUMED: dict[str, dict[str, Any]] = {
    "batch norm, dropout, Adam": {},
    "momentum and the plateau schedule": {"optimizer": "sgd", "schedule": "plateau", "decay_epochs": 1, "lr": 0.3},
    "augmentation": {
        "crop_timesteps": 32,
        "amplitude_scale": 0.2,
        "lead_dropout": 0.2,
        "noise_mv": 0.1,
        "baseline_wander_mv": 0.1,
        "mixup_alpha": 0.2,
        "cutmix_alpha": 1.0,
    },
    "early stopping and one cycle": {"early_stopping": "plateau", "patience": 2, "schedule": "one_cycle"},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("params", RESUMED.values(), ids=RESUMED.keys())
def test_a_resumed_trial_continues_bit_for_bit(tmp_path: Path, params: dict[str, Any]) -> None:
    dataset = tiny_dataset(n_train=40, n_val=20)
    params = {**SMALL, **params}
    whole = run(dataset, PlainTrial(5, tmp_path / "whole"), **params)
    with pytest.raises(TrialStopped):
        run(dataset, PlainTrial(5, tmp_path / "cut", stop_after=1), **params)
    torch.manual_seed(999)  # a resumed trial owes nothing to the process it runs in
    rest = run(dataset, PlainTrial(5, tmp_path / "cut"), **params)
    assert losses(rest) == losses(whole)[1:]
    ends = [PlainTrial(5, tmp_path / name).restore() for name in ("whole", "cut")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert all(torch.equal(ends[0]["model"][name], ends[1]["model"][name]) for name in ends[0]["model"])


def test_a_finished_trial_resumes_to_nothing(tmp_path: Path) -> None:
    dataset = tiny_dataset(n_train=16, n_val=16)
    run(dataset, PlainTrial(5, tmp_path), **SMALL)
    assert run(dataset, PlainTrial(5, tmp_path), **SMALL).reports == {}


def test_a_trial_that_stopped_early_does_not_train_on_when_resumed(tmp_path: Path) -> None:
    dataset = tiny_dataset(n_train=16, n_val=16)
    params: dict[str, Any] = {**SMALL, "epochs": 9, "early_stopping": "plateau", "patience": 1, "min_delta": 100.0}
    first = run(dataset, PlainTrial(5, tmp_path), **params)
    assert list(first.reports) == [1, 2]
    assert run(dataset, PlainTrial(5, tmp_path), **params).reports == {}


def test_the_same_seed_trains_the_same_and_another_does_not() -> None:
    dataset = tiny_dataset(n_train=32, n_val=16)
    assert losses(run(dataset, **SMALL)) == losses(run(dataset, **SMALL))
    assert losses(run(dataset, **SMALL)) != losses(run(dataset, PlainTrial(6), **SMALL))


@pytest.mark.parametrize("task", LABEL_SETS)
def test_accumulation_takes_the_steps_of_the_whole_batch(task: Any) -> None:
    dataset = tiny_dataset(task, n_train=41, n_val=16)
    weights: dict[str, Any] = {} if task == "regression" else {"class_weights": "balanced", "label_smoothing": 0.1}
    params = {**EXACT, **weights, "optimizer": "sgd", "lr": 0.05, "clip_norm": 1.0}
    whole, pieces = run(dataset, **params), run(dataset, **params, accumulate_steps=3)
    for first, second in zip(losses(whole), losses(pieces), strict=True):
        assert second == pytest.approx(first, rel=1e-5)


def test_missing_targets_weigh_nothing_whatever_the_pieces() -> None:
    dataset = tiny_dataset("regression", n_train=40, n_val=16)
    labels = dataset.train.labels_NK.copy()
    labels[::3] = np.nan
    labels[:16] = np.nan
    batch = next(dataset.train.batches(100))
    dataset = replace(dataset, train=TinySplit(batch.ecg_BLT, labels))
    params = {**EXACT, "optimizer": "sgd", "lr": 0.05}
    whole, pieces = run(dataset, **params), run(dataset, **params, accumulate_steps=4)
    for first, second in zip(losses(whole), losses(pieces), strict=True):
        assert second == pytest.approx(first, rel=1e-5)


def padded(split: Split, n_padded: int) -> TinySplit:
    batch = next(split.batches(split.n_records))
    ecg_NLT = np.pad(batch.ecg_BLT, ((0, 0), (0, 0), (0, n_padded)))
    return TinySplit(ecg_NLT, batch.labels_BK, tuple(batch.length_B.tolist()))


def test_padding_changes_nothing_about_a_training_on_crops() -> None:
    bare = tiny_dataset(n_train=40, n_val=20)
    signal = replace(bare.signal, n_timesteps=64 + 50)
    longer = replace(bare, signal=signal, train=padded(bare.train, 50), val=padded(bare.val, 50))
    params: dict[str, Any] = {**SMALL, **RESUMED["augmentation"], "window_pooling": "max"}
    assert losses(run(longer, **params)) == losses(run(bare, **params))


@pytest.mark.parametrize("model", ["cnn", "xresnet1d18", "inception1d", "resnet1d_wang", "fcn_wang", "lstm_bidir"])
def test_a_last_batch_of_one_record_is_trained_on_too(model: str) -> None:
    trial = run(tiny_dataset(n_train=17, n_val=16), model=model, batch_size=16, epochs=1)
    assert np.isfinite(trial.reports[1]["train/loss"])


def test_every_epoch_reports_losses_metrics_and_costs() -> None:
    report = run(tiny_dataset("multilabel", n_train=32, n_val=32), **SMALL).reports[3]
    assert {"train/loss", "val/loss", "val/auroc", "val/map", "val/f1", "val/classes_left_out"} <= set(report)
    assert report["parameters"] == 3 * 8 * 7 + 8 * 8 * 7 + 2 * 16 + 16 * 2 + 2
    assert report["peak_memory_bytes"] > 4 * report["parameters"]
    assert report["epoch_s"] > 0


def test_thresholds_are_kept_with_the_weights(tmp_path: Path) -> None:
    trial = run(tiny_dataset(), PlainTrial(5, tmp_path), **SMALL, threshold_rule="youden")
    state = trial.restore()
    assert state is not None
    assert len(state["thresholds"]) == 1
    assert state["thresholds"] != [0.5]


def test_a_loss_that_is_not_finite_names_epoch_and_batch() -> None:
    dataset = tiny_dataset(n_train=48, n_val=16)
    batch = next(dataset.train.batches(100))
    ecg = batch.ecg_BLT
    ecg[:] = np.inf
    broken = replace(dataset, train=TinySplit(ecg, batch.labels_BK))
    with pytest.raises(FloatingPointError, match="the training loss is not finite in epoch 1, batch 1"):
        run(broken, **SMALL)


def test_answers_that_are_not_finite_end_the_trial() -> None:
    dataset = tiny_dataset(n_train=16, n_val=16)
    ecg = next(dataset.val.batches(100)).ecg_BLT
    ecg[3] = np.nan
    broken = replace(dataset, val=TinySplit(ecg, dataset.val.labels_NK))
    with pytest.raises(FloatingPointError, match="validation answers are not finite after epoch 1"):
        run(broken, **SMALL)


def test_an_empty_split_is_refused() -> None:
    dataset = tiny_dataset(n_train=16, n_val=16)
    empty = TinySplit(np.zeros((0, 3, 64), np.float32), np.zeros((0, 1), np.float32))
    with pytest.raises(ValueError, match="the training split has no records"):
        run(replace(dataset, train=empty), **SMALL)
    with pytest.raises(ValueError, match="the validation split has no records"):
        run(replace(dataset, val=empty), **SMALL)


def test_a_trial_without_epochs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"epochs is not set; give `budget.epochs`"):
        run(tiny_dataset(), **{**SMALL, "epochs": None})


def test_the_loss_curve_is_the_one_on_record() -> None:
    """Golden: train/loss and val/loss of this program at its first commit, torch 2.13 on a CPU; 1e-3 for other CPUs."""
    found = [(r["train/loss"], r["val/loss"]) for r in run(tiny_dataset(), **EXACT, lr=1e-2).reports.values()]
    assert np.array(found) == pytest.approx(np.array(GOLDEN), rel=1e-3)


GOLDEN = [(0.52433, 0.37182), (0.28250, 0.24229), (0.21764, 0.21953)]


class ZeroGradient(Step):
    """Takes a step of another's gradient, which it zeroes, and counts the steps."""

    def __init__(self, plain: Step, model: torch.nn.Module, n_steps: int) -> None:
        self.plain, self.model, self.n_steps, self.numbers = plain, model, n_steps, list[int]()

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        sums = self.plain.gradient(ecg_BLT, targets_BJ, number)
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad.zero_()
        return sums

    def after(self, number: int) -> None:
        self.numbers.append(number)

    def metrics(self) -> dict[str, float]:
        return {"steps": float(len(self.numbers))}

    def state(self) -> dict[str, Any]:
        return {"n": len(self.numbers)}

    def load(self, state: dict[str, Any]) -> None:
        self.numbers = [-1] * state["n"]


def test_a_methods_step_finds_the_gradient_reports_and_is_kept_in_the_checkpoint(tmp_path: Path) -> None:
    dataset = tiny_dataset(n_train=40, n_val=20)
    config = SupervisedConfig(**{**EXACT, "weight_decay": 0.0})

    def trained(trial: PlainTrial) -> ZeroGradient:
        model, built = build_model(config, dataset.signal, dataset.label_set), list[ZeroGradient]()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def build_step(model: torch.nn.Module, criterion: Criterion, n_steps: int) -> Step:
            built.append(ZeroGradient(BackPropagation(model, criterion, config, trial), model, n_steps))
            return built[0]

        try:
            fit(model, config, dataset, trial, build_step)
        except TrialStopped:
            assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        return built[0]

    first = PlainTrial(5, tmp_path, stop_after=2)
    assert trained(first).numbers == list(range(6))
    assert [report["steps"] for report in first.reports.values()] == [3.0, 6.0]
    resumed = trained(PlainTrial(5, tmp_path))
    assert resumed.numbers == [-1] * 6 + [6, 7, 8]
    assert resumed.n_steps == 9
