"""The ensemble of a sweep, from checkpoints whose weights are random; without Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from data.dataset import Dataset
from data.loading import load
from platform.evaluation.held_out import PREDICTIONS_FILE, HeldOut
from platform.models.trained_model import read_trained_model
from platform.outcomes.ensemble import SweepEnsemble, find_candidates
from platform.outcomes.ensemble_result import EnsembleResult
from platform.specs.sections import EnsembleSpec, Objective
from platform.sweeps.checkpoints import KEPT_TRIALS
from platform.sweeps.journal import Journal, SweepRecord, read_events, replay
from tests.platform.outcomes import test_outcome
from tests.platform.outcomes.test_outcome import Sweep
from tests.platform.small_spec import make_spec, search
from tests.platform.trained_sweeps import make_store, make_sweep
from trainables.checkpoint import load_weights, read_notes, save_weights
from trainables.deployed_onnx import DeployedOnnx
from trainables.ensemble import mean_prediction
from trainables.evaluation import evaluate
from trainables.predictor import Predictor
from trainables.tune_trial import BEST_FILE

TRIALS = ("t0000", "t0001", "t0002")
SEEDS = {"binary": 3, "windows": 3}  # of weights with which several members are chosen
Mode = Literal["max", "min"]
CASES: Mapping[str, tuple[dict[str, Any], str, dict[str, Any], str, Mode]] = {
    # store, labels, parameters, objective
    "binary": ({"task": "af_segments", "n_leads": 1}, "af", {"threshold_rule": "youden"}, "val/auroc", "max"),
    "multilabel": ({}, "morphology", {"threshold_rule": "best_f1"}, "val/f1", "max"),
    "multiclass": ({"task": "rhythm"}, "rhythm", {}, "val/auprc", "max"),
    "regression": ({"task": "multitask"}, "rr_interval", {}, "val/mae", "min"),
    "windows": ({}, "morphology", {"crop_timesteps": 60, "window_pooling": "max"}, "val/auroc", "max"),
}


@dataclass
class Ended:
    """A sweep that has ended, whose best trial was tested, with its data in memory."""

    run: Path
    data: Dataset
    objective: Objective
    reads: int = 0

    @property
    def record(self) -> SweepRecord:
        return replay(read_events(self.run))

    def conclude(self, candidates: tuple[str, ...] = TRIALS) -> EnsembleResult:
        """Do what a process does at the end of the sweep, or of a resume."""

        def read() -> Any:
            self.reads += 1
            return self.data.test

        record, journal, label_set = self.record, Journal(self.run), self.data.label_set
        held_out = HeldOut(read, label_set, record, journal, seed=5)
        best = held_out.result(self.run / "best", next(e.body for e in record.tested if "metrics" in e.body))
        ensemble = SweepEnsemble(self.run, candidates, self.objective, label_set, "cpu")
        try:
            return ensemble.conclude(self.data.val, held_out, record, best)
        finally:
            journal.close()

    def answers(self, role: Literal["val", "test"], weights: Mapping[str, float]) -> Any:
        """Return the weighted mean of the members' probabilities, model by model."""
        split = getattr(self.data, role)
        members = [read_trained_model(self.run, trial) for trial in weights]
        each = [evaluate(m.model, split, m.config, m.card.data.label_set).predicted_NK for m in members]
        return np.average(each, axis=0, weights=list(weights.values()))


@pytest.fixture(scope="module", params=CASES)
def ended(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return make_ended(tmp_path_factory.mktemp(request.param), request.param)


def make_ended(folder: Path, case: str) -> Ended:
    synthetic, labels, params, metric, mode = CASES[case]
    store = make_store(folder / "store", **{"n_records": 200, **synthetic})
    run = make_sweep(folder / "run", store, seed=SEEDS.get(case, 0), trials=TRIALS, params=params, labels=labels)
    config = read_trained_model(run, TRIALS[0]).card.data.config
    data = load(config, ("val", "test"))
    if case == "regression":
        centre_answers(run, data.val.labels_NK, {"t0000": 2.0, "t0001": -2.0, "t0002": 4.0})
    return Ended(run, data, Objective(metric=metric, mode=mode))


def centre_answers(run: Path, targets_N1: NDArray[np.float32], shifts: Mapping[str, float]) -> None:
    """Centre the models' answers on the targets, but for errors (in deviations) that cancel in the mean."""
    location, scale = torch.from_numpy(targets_N1.mean(axis=0)), torch.from_numpy(targets_N1.std(axis=0))
    for trial, shift in shifts.items():
        path = run / "trials" / trial / BEST_FILE
        centred = {"1.location_K": location + shift * scale, "1.scale_K": scale}
        save_weights(path, {**load_weights(path), **centred}, read_notes(path))


def test_the_ensemble_is_chosen_tested_and_exported_for_every_task(ended: Ended) -> None:
    result = ended.conclude()
    card, name = result.card, ended.objective.metric.removeprefix("val/")
    assert len(card.weights) > 1 and sum(card.weights.values()) == pytest.approx(1)
    better = card.val[name] >= card.best_val if ended.objective.mode == "max" else card.val[name] <= card.best_val
    assert better
    largest = max(1, abs(ended.answers("val", card.weights)).max())
    assert card.onnx_difference is not None and card.onnx_difference < 1e-3 * largest
    kept = np.load(ended.run / "ensemble" / PREDICTIONS_FILE)
    np.testing.assert_allclose(kept["predicted_NK"], ended.answers("test", card.weights), atol=1e-9)
    assert kept["thresholds_K"].tolist() == list(card.thresholds.values())
    assert result.difference is not None and result.best is not None and result.test is not None
    assert result.difference.value == pytest.approx(result.test.metrics[name] - result.best.metrics[name])


def test_the_file_takes_mv_and_answers_as_the_members_do(ended: Ended) -> None:
    card = ended.conclude().card
    members = [read_trained_model(ended.run, trial) for trial in card.weights]
    signal = card.data.input_signal
    onnx = DeployedOnnx(ended.run / "ensemble" / "model.onnx")
    for n_records in (1, 5):
        rng = np.random.default_rng(n_records)
        ecg_BLT = rng.normal(0, 0.5, (n_records, len(signal.lead_names), signal.n_timesteps)).astype(np.float32)
        each = [Predictor(m.model, m.config, card.data).predict(list(ecg_BLT)) for m in members]
        expected_BK = mean_prediction(each, list(card.weights.values()))
        np.testing.assert_allclose(onnx.answer(ecg_BLT), expected_BK, rtol=1e-4, atol=1e-4)
    session = onnxruntime.InferenceSession(ended.run / "ensemble" / "model.onnx")
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["members"]) == card.weights
    assert json.loads(notes["thresholds"]) == card.thresholds


def test_the_cost_is_that_of_the_members_together(ended: Ended) -> None:
    card = ended.conclude().card
    models = [read_trained_model(ended.run, trial).model for trial in card.weights]
    assert card.cost.members == len(models)
    assert card.cost.parameters == sum(p.numel() for model in models for p in model.parameters())
    assert card.cost.onnx_bytes == (ended.run / "ensemble" / "model.onnx").stat().st_size
    assert card.cost.ms_a_record is not None and card.cost.ms_a_record > 0
    assert card.best_cost.members == 1


@pytest.fixture
def fresh(tmp_path: Path) -> Ended:
    return make_ended(tmp_path, "multilabel")


def test_validation_metrics_and_thresholds_are_those_of_the_mean(fresh: Ended) -> None:
    card = fresh.conclude().card
    labels_NK, answers_NK = fresh.data.val.labels_NK, fresh.answers("val", card.weights)
    both_K = (labels_NK.min(axis=0) < labels_NK.max(axis=0)).nonzero()[0]
    expected = np.mean([roc_auc_score(labels_NK[:, k], answers_NK[:, k]) for k in both_K])
    assert card.val["auroc"] == pytest.approx(expected, abs=1e-9)
    assert card.thresholds != dict.fromkeys(card.thresholds, 0.5)


def test_the_test_fold_has_no_part_in_the_choice(fresh: Ended) -> None:
    chosen = fresh.conclude().card
    (fresh.run / "ensemble" / "config.json").unlink()
    ensemble = SweepEnsemble(fresh.run, TRIALS, fresh.objective, fresh.data.label_set, "cpu")
    again = ensemble.conclude(fresh.data.val, None, fresh.record, None)
    assert (again.card.weights, again.card.thresholds) == (chosen.weights, chosen.thresholds)
    assert again.test is None


def test_the_ensemble_is_a_look_of_its_own_and_a_resume_without_news_none(fresh: Ended) -> None:
    first = fresh.conclude()
    assert not first.card.is_best_alone
    again = fresh.conclude()
    assert (fresh.reads, len(fresh.record.tested)) == (1, 2)
    assert [event.body["look"] for event in fresh.record.tested] == [1, 2]
    assert again.card == first.card
    assert again.difference == first.difference
    assert again.test is not None and first.test is not None and again.test.metrics == first.test.metrics


def test_other_candidates_are_chosen_among_anew(fresh: Ended) -> None:
    fresh.conclude()
    result = fresh.conclude(TRIALS[:2])
    assert result.card.candidates == TRIALS[:2]
    assert set(result.card.weights) <= set(TRIALS[:2])


def test_where_the_best_trial_alone_is_chosen_it_is_not_tested_twice(fresh: Ended) -> None:
    result = fresh.conclude(TRIALS[:1])
    assert result.card.weights == {"t0000": 1.0}
    assert (fresh.reads, len(fresh.record.tested)) == (0, 1)
    assert result.test is result.best
    assert result.lines() == ["ensemble: of 1 candidates the best trial alone is chosen; nothing is gained"]


def test_lines_and_table_set_the_gain_against_the_cost(fresh: Ended) -> None:
    result = fresh.conclude()
    text = "\n".join(result.lines())
    for part in ("ensemble of t000", "val/f1", "test/f1", "95 % interval", "members", "ms a record", " x)"):
        assert part in text
    rows = {row[0].text: [cell.text for cell in row] for row in result.table().rows}
    assert rows["parameters"][3] == f"{result.card.cost.members}.0 x"
    assert {"val/f1", "test/f1", "test/auroc", "members", "parameters", "ONNX", "ms a record"} <= rows.keys()


def test_an_ensemble_that_no_onnx_file_can_hold_is_tested_all_the_same(
    fresh: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.ensemble_onnx.MAX_ONNX_BYTES", 1)
    result = fresh.conclude()
    assert result.test is not None
    assert result.card.cost.onnx_bytes is None and result.card.cost.parameters > 0
    assert not (fresh.run / "ensemble" / "model.onnx").exists()
    assert result.lines()[-1] == "  not exported: too large for an ONNX file"
    assert "too large" in {row[0].text: row[2].text for row in result.table().rows}["ONNX"]


def test_candidates_are_the_best_with_a_checkpoint(tmp_path: Path) -> None:
    ranked: Any = [type("Trial", (), {"trial": f"t{number:04d}"}) for number in range(4)]
    for name in ("t0000", "t0002", "t0003"):
        (tmp_path / "trials" / name).mkdir(parents=True)
        (tmp_path / "trials" / name / "best.safetensors").touch()
    assert find_candidates(tmp_path, ranked, EnsembleSpec(top=2)) == ("t0000", "t0002")


# ------------------------------------------------------------------ in a spec, and at the end of a sweep


def test_as_many_can_be_asked_for_as_are_kept() -> None:
    assert EnsembleSpec().top == KEPT_TRIALS
    with pytest.raises(ValueError, match="less than or equal to 10"):
        EnsembleSpec(top=KEPT_TRIALS + 1)


def test_a_spec_without_an_ensemble_says_nothing_of_it() -> None:
    assert "ensemble" not in make_spec().to_yaml()
    assert "ensemble:\n  top: 5\n" in make_spec(ensemble={"top": 5}).to_yaml()


def test_members_are_chosen_by_a_metric_of_probabilities() -> None:
    with pytest.raises(ValueError, match=r"must be one of val/accuracy, .*val/r2.*; got 'val/loss'"):
        make_spec(ensemble={"top": 5}, search=search(metric="val/loss", mode="min"))


def test_one_trial_is_no_choice() -> None:
    with pytest.raises(ValueError, match="needs 2 trials at least; got 1"):
        make_spec({"lr": 1e-3}, ensemble={"top": 5})


def test_the_end_of_a_sweep_has_the_ensemble_in_its_lines_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = test_outcome.SPEC.model_copy(update={"ensemble": EnsembleSpec(top=2)})
    monkeypatch.setattr(test_outcome, "SPEC", spec)
    sweep = Sweep(tmp_path, monkeypatch)
    for number in range(3):
        sweep.add(number, auroc=0.6 - 0.1 * number)
    outcome = sweep.conclude()
    assert outcome.ensemble is not None
    assert outcome.ensemble.card.candidates == ("t0000", "t0001")
    assert outcome.test_looks == len(sweep.record.tested) == 2 - outcome.ensemble.card.is_best_alone
    assert sweep.looks == 1, "the test fold is read once for both"
    text = outcome.text(tmp_path, spec, "RESUME")
    assert "\nensemble" in text and f"  ensemble     {tmp_path}/ensemble/" in text
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h2>Ensemble</h2>" in report and "greedy selection by val/auroc on validation among 2 trials" in report
