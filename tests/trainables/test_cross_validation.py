"""A cross-validated trial: k models that advance together, each as it would alone, and speak as their mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.cross_validation import FoldedDataset
from data.dataset import Dataset, Task
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.cross_validation import MeanModel, cross_validated, mean_logits, training_method
from trainables.fold_metrics import split_by_fold
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx, static_quantities
from trainables.plain_trial import CHECKPOINT_FILE, PlainTrial
from trainables.seeds import Use, derive_seed
from trainables.trial import Trial, TrialStopped

PARAMS = {"model": "cnn", "channels": 4, "depth": 2, "epochs": 4, "batch_size": 16, "lr": 1e-2}
MEASURED = ("epoch_s", "peak_memory_bytes", "process_peak_bytes")
K = 3


def folded(task: Task = "binary") -> FoldedDataset:
    """Build three folds of different sizes."""
    whole = tiny_dataset(task)
    folds = tuple(tiny_dataset(task, n_train=48 + 16 * fold, n_val=24 + 8 * fold) for fold in range(K))
    return FoldedDataset(whole.signal, whole.label_set, whole.train, whole.val, folds=folds)


def train(trial: PlainTrial, task: Task = "binary", **params: Any) -> dict[int, dict[str, float]]:
    method = training_method("supervised", K)
    method.train(method.parse_config({**PARAMS, **params}), folded(task), trial)
    return trial.reports


def exact(numbers: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in numbers.items() if not name.endswith(MEASURED)}


def test_each_folds_model_is_the_one_that_it_would_be_alone_and_the_trial_reports_their_mean() -> None:
    reports, method, dataset = train(PlainTrial(seed=5)), METHODS["supervised"], folded()
    alone = []
    for fold, part in enumerate(dataset.folds, start=1):
        trial = PlainTrial(seed=derive_seed(Use.FOLD, 5, fold))
        method.train(method.parse_config(PARAMS), part, trial)
        alone.append(trial.reports)
    assert sorted(reports) == [1, 2, 3, 4]
    for epoch, metrics in reports.items():
        own, folds = split_by_fold(metrics)
        for fold, values in folds.items():
            assert exact(values) == exact(alone[fold - 1][epoch])
        for name in ("val/auroc", "val/loss", "train/loss"):
            assert own[name] == pytest.approx(np.mean([values[name] for values in folds.values()]))
        for name in ("epoch_s", "parameters"):
            assert own[name] == pytest.approx(sum(values[name] for values in folds.values()))
        assert own["peak_memory_bytes"] == max(values["peak_memory_bytes"] for values in folds.values())


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_trial_that_is_stopped_and_taken_up_again_reports_the_same(tmp_path: Path, stop_after: int) -> None:
    whole = train(PlainTrial(seed=5))
    with pytest.raises(TrialStopped):
        train(PlainTrial(seed=5, folder=tmp_path, stop_after=stop_after))
    resumed = train(PlainTrial(seed=5, folder=tmp_path))
    assert sorted(resumed) == list(range(stop_after + 1, 5))
    for epoch, metrics in resumed.items():
        assert exact(metrics) == exact(whole[epoch])


def train_for_a_while(config: Any, dataset: Dataset, trial: Trial) -> None:
    """Train nothing, for as many epochs as there are 16 training records: 3, 4 and 5 in the folds here."""
    first = 1 + int((trial.restore() or {"epoch": 0})["epoch"])
    for epoch in range(first, dataset.train.n_records // 16 + 1):
        state = {"epoch": epoch, "model": {}, "thresholds": [0.5]}
        trial.report(epoch, {"val/auroc": 0.1 * epoch}, lambda: state)  # noqa: B023  (read at once)


@pytest.mark.parametrize("stop_after", [None, 3, 4])
def test_a_fold_that_stops_early_keeps_its_numbers_while_the_others_go_on(
    tmp_path: Path, stop_after: int | None
) -> None:
    method = cross_validated(replace(METHODS["supervised"], train=train_for_a_while), K)
    reports = {}
    if stop_after is not None:
        trial = PlainTrial(seed=5, folder=tmp_path, stop_after=stop_after)
        with pytest.raises(TrialStopped):
            method.train(None, folded(), trial)
        reports = trial.reports
    trial = PlainTrial(seed=5, folder=tmp_path)
    method.train(None, folded(), trial)
    reports |= trial.reports
    assert sorted(reports) == [1, 2, 3, 4, 5]
    folds = {epoch: split_by_fold(metrics)[1] for epoch, metrics in reports.items()}
    assert [folds[5][fold]["val/auroc"] for fold in (1, 2, 3)] == pytest.approx([0.3, 0.4, 0.5])
    assert [reports[epoch]["val/auroc"] for epoch in (3, 4, 5)] == pytest.approx([0.3, 1.1 / 3, 0.4])


@pytest.mark.parametrize("task", ["binary", "multilabel", "multiclass", "regression"])
def test_what_is_saved_is_a_model_that_answers_with_the_mean_and_exports(tmp_path: Path, task: Task) -> None:
    trial, method, dataset = PlainTrial(seed=5, folder=tmp_path), training_method("supervised", K), folded(task)
    train(trial, task, epochs=1)
    assert (tmp_path / CHECKPOINT_FILE).exists()
    state = trial.restore()
    assert state is not None
    config = method.parse_config(PARAMS)
    model = method.build_model(config, dataset.signal, dataset.label_set).eval()
    model.load_state_dict(state["model"])
    assert isinstance(model, MeanModel)
    ecg_BLT = torch.from_numpy(next(iter(dataset.val.batches(8))).ecg_BLT)
    with torch.inference_mode():
        answers_FBK = [probabilities(each(ecg_BLT), task) for each in model.models]
        np.testing.assert_allclose(probabilities(model(ecg_BLT), task), np.mean(answers_FBK, axis=0), rtol=1e-5)
    assert not np.allclose(answers_FBK[0], answers_FBK[1]), "fresh models each"
    assert export_onnx(model, dataset.signal, tmp_path / "model.onnx") < 1e-4
    thresholds = [fold["saved"]["thresholds"] for fold in state["folds"]]
    np.testing.assert_allclose(state["thresholds"], np.mean(thresholds, axis=0))


def probabilities(logits_BK: Tensor, task: Task) -> np.ndarray:
    if task == "regression":
        return logits_BK.numpy()
    answers_BK = torch.softmax(logits_BK, dim=1) if task == "multiclass" else torch.sigmoid(logits_BK)
    return answers_BK.double().numpy()


def test_certain_models_have_a_finite_mean() -> None:
    logits_FBK = torch.tensor([[[200.0]], [[-200.0]]])
    assert mean_logits(logits_FBK, "binary").item() == pytest.approx(0.0, abs=1e-6)
    assert mean_logits(torch.full((2, 1, 1), 150.0), "multilabel").item() == pytest.approx(150.0)
    two_classes_FBK = torch.tensor([[[300.0, 0.0]], [[0.0, 300.0]]])
    assert torch.softmax(mean_logits(two_classes_FBK, "multiclass"), dim=1).tolist() == [[0.5, 0.5]]


def test_parameters_and_onnx_bytes_are_those_of_all_models() -> None:
    dataset = tiny_dataset()
    config = METHODS["supervised"].parse_config({**PARAMS, "channels": 32})
    one, all_ = (
        static_quantities(training_method("supervised", k), config, dataset.signal, dataset.label_set)
        for k in (None, K)
    )
    assert all_["parameters"] == K * one["parameters"]
    assert 2 * one["onnx_bytes"] < all_["onnx_bytes"] < 4 * one["onnx_bytes"]
