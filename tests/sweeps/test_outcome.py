"""What a finished sweep leaves: journal, study, leaderboard, report, model, MLflow runs."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import optuna
import pytest
import torch
from mlflow import MlflowClient
from optuna.trial import TrialState

from platform.models.trained_model import read_trained_model
from platform.outcomes.outcome import ONNX_TOLERANCE
from tests.sweeps.workplace import TWELVE_LEADS, Workplace, states

NAMES = ["t0000", "t0001", "t0002", "t0003"]


@pytest.fixture(scope="module")
def folder(finished: Workplace) -> Path:
    return finished.runs / "tiny-001"


def test_every_trial_is_proposed_started_reported_and_ended_once(finished: Workplace) -> None:
    record = finished.record()
    assert list(record.trials) == NAMES
    for name, trial in record.trials.items():
        events = [event for event in finished.events() if event.trial == name]
        kinds = [event.kind for event in events if event.kind not in ("tested", "measured")]
        assert kinds == ["proposed", "started", *["reported"] * trial.epochs, "ended"]
        assert sorted(trial.reports) == list(range(1, trial.epochs + 1))
        assert trial.state in ("COMPLETED", "STOPPED")
    assert [event.body["reason"] for event in record.closed] == ["done"]


def test_the_latency_of_every_model_on_the_front_is_measured_once_when_all_trials_have_ended(
    finished: Workplace, folder: Path
) -> None:
    events = finished.events()
    measured = [event.trial for event in events if event.kind == "measured"]
    assert finished.record().tested[0].trial in measured
    assert len(set(measured)) == len(measured)
    last_end = max(place for place, event in enumerate(events) if event.kind == "ended")
    assert all(place > last_end for place, event in enumerate(events) if event.kind == "measured")
    with (folder / "leaderboard.csv").open() as file:
        assert {row["trial"] for row in csv.DictReader(file) if row["latency_ms"]} == set(measured)


def test_points_to_try_first_come_first(finished: Workplace) -> None:
    assert [trial.sampled["lr"] for trial in finished.record().trials.values()][:2] == [1e-2, 1e-3]


def test_the_study_opens_and_agrees_with_the_journal(finished: Workplace, folder: Path) -> None:
    study = optuna.load_study(study_name="tiny-001", storage=f"sqlite:///{folder / 'study.db'}")
    expected = {"COMPLETED": TrialState.COMPLETE, "STOPPED": TrialState.PRUNED}
    for ours, theirs in zip(finished.record().trials.values(), study.trials, strict=True):
        assert theirs.state == expected[ours.state]
        assert theirs.intermediate_values == {epoch: m["val/auroc"] for epoch, m in ours.reports.items()}
        if ours.state == "COMPLETED":
            assert theirs.values == [ours.best("val/auroc", maximise=True)]


def test_the_leaderboard_ranks_all_trials(finished: Workplace, folder: Path) -> None:
    with (folder / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    bests = {name: trial.best("val/auroc", maximise=True) for name, trial in finished.record().trials.items()}
    assert [row["trial"] for row in rows] == sorted(bests, key=lambda name: -float(bests[name] or 0))


def test_the_report_stands_alone_and_names_the_best_trial(finished: Workplace, folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert finished.record().tested[0].trial in page
    assert 'src="http' not in page


def test_the_best_model_loads_from_its_files_and_answers_like_its_onnx_file(finished: Workplace, folder: Path) -> None:
    trained = read_trained_model(folder)
    card, signal = trained.card, trained.card.data.signal
    best = max(finished.record().trials.values(), key=lambda trial: trial.best("val/auroc", maximise=True) or 0)
    assert (card.trial, card.params) == (best.trial, best.params)
    assert signal.lead_names == ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
    assert (signal.fs_hz, signal.n_timesteps) == (50, 150)
    assert tuple(card.thresholds) == card.data.label_set.names
    same = read_trained_model(folder, best.trial)
    assert same.card == card
    model = trained.model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[name])
    elsewhere = shutil.copytree(folder / "best", finished.folder / "taken")
    assert read_trained_model(elsewhere).card == card
    session = onnxruntime.InferenceSession(folder / "best" / "model.onnx")
    for n_records in (1, 5):
        ecg_BLT = np.random.default_rng(n_records).standard_normal((n_records, 12, 150)).astype(np.float32)
        with torch.no_grad():
            expected_BK = model(torch.from_numpy(ecg_BLT)).numpy()
        (answers_BK,) = session.run(None, {session.get_inputs()[0].name: ecg_BLT})
        np.testing.assert_allclose(answers_BK, expected_BK, atol=ONNX_TOLERANCE)


def test_mlflow_has_the_sweep_with_its_trials_as_children(finished: Workplace) -> None:
    runs, record = finished.mlflow_runs(), finished.record()
    assert sorted(runs) == ["", *NAMES]
    parent = runs.pop("")
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["test_looks"] == 1
    for name, run in runs.items():
        trial = record.trials[name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert (run.info.status, run.data.tags["state"]) == ("FINISHED", trial.state)
        assert float(run.data.params["lr"]) == trial.params["lr"]
        assert (run.info.end_time - run.info.start_time) / 1000 == pytest.approx(trial.duration_s, abs=0.01)
        curve = MlflowClient(tracking_uri=finished.tracking_uri).get_metric_history(run.info.run_id, "val/auroc")
        assert {point.step: point.value for point in curve} == {e: m["val/auroc"] for e, m in trial.reports.items()}


def test_every_mlflow_run_is_tagged(finished: Workplace) -> None:
    for run in finished.mlflow_runs().values():
        tags = run.data.tags
        assert (tags["method"], tags["store"], tags["sweep"]) == ("supervised", "twelve_leads", "tiny-001")
        assert (tags["stage"], tags["seed"]) == ("search", "3")
        assert len(tags["fingerprint"]) == 64
        assert tags["git_commit"]
        assert "torch 2." in tags["versions"]


def test_the_model_and_the_report_are_in_mlflow(finished: Workplace) -> None:
    client = MlflowClient(tracking_uri=finished.tracking_uri)
    run_id = finished.mlflow_runs()[""].info.run_id
    assert {"report.html", "leaderboard.csv", "spec.yaml", "best"} <= {a.path for a in client.list_artifacts(run_id)}
    assert "best/model.onnx" in {a.path for a in client.list_artifacts(run_id, "best")}


def test_only_checkpoints_that_may_be_wanted_are_left(finished: Workplace, folder: Path) -> None:
    left = {str(path.relative_to(folder / "trials")) for path in (folder / "trials").rglob("*") if path.is_file()}
    assert left == {f"{name}/best.safetensors" for name in NAMES}
    assert not (folder / ".tune").exists()


def test_the_test_fold_is_looked_at_once(finished: Workplace) -> None:
    record = finished.record()
    (look,) = record.tested
    assert look.body["look"] == 1
    assert 0 <= look.body["metrics"]["auroc"] <= 1
    assert set(states(record).values()) <= {"COMPLETED", "STOPPED"}
    assert len(look.body["intervals"]["auroc"]) == 2
    assert TWELVE_LEADS["n_records"] == 400
