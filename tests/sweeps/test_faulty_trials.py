"""A trial that goes wrong is FAILED with its traceback, and the sweep goes on."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from tests.sweeps.scripted_method import grid
from tests.sweeps.workplace import Workplace, states

pytestmark = pytest.mark.usefixtures("scripted")
GRID = {"metric": "val/auroc", "mode": "max", "sampler": "grid", "scheduler": "none"}


def traceback_of(place: Workplace, trial: str) -> str:
    """Return the traceback that MLflow has of a trial."""
    run_id = place.mlflow_runs()[trial].info.run_id
    client = MlflowClient(tracking_uri=place.tracking_uri)
    with open(client.download_artifacts(run_id, "traceback.txt"), encoding="utf-8") as file:
        return file.read()


def test_whatever_goes_wrong_in_a_trial_it_is_failed_and_the_sweep_goes_on(
    place: Workplace,
) -> None:
    faults = ("raise", "nan", "unbuildable", "kill", "none", "memory")
    code = place.sweep(
        method="scripted", params=grid(fault=faults), search=GRID, budget={"trials": len(faults), "epochs": 2}
    )
    assert code == 0
    record = place.record()
    assert states(record) == {
        "t0000": "FAILED", "t0001": "FAILED", "t0002": "FAILED", "t0003": "FAILED", "t0004": "COMPLETED",
        "t0005": "FAILED",
    }  # fmt: skip
    assert record.trials["t0000"].epochs == 1
    assert "RuntimeError: the lead fell off" in traceback_of(place, "t0000")
    assert "in _go_wrong" in traceback_of(place, "t0000")
    assert "FloatingPointError: val/auroc is nan after epoch 1" in traceback_of(place, "t0001")
    assert "died" in traceback_of(place, "t0003")
    assert {name: trial.losses for name, trial in record.trials.items() if trial.losses} == {"t0003": 2}
    assert "can't allocate memory" in traceback_of(place, "t0005")
    runs = place.mlflow_runs()
    assert {name: runs[name].info.status for name in ("", "t0000", "t0003", "t0004")} == {
        "": "FINISHED", "t0000": "FAILED", "t0003": "FAILED", "t0004": "FINISHED",
    }  # fmt: skip


def test_a_model_that_can_not_be_built_is_known_before_training(place: Workplace) -> None:
    params = {"fault": "unbuildable", "score": {"uniform": [0, 1]}}
    code = place.sweep(method="scripted", params=params, search={**GRID, "sampler": "random"})
    assert code == 1
    events = [event.kind for event in place.events()]
    assert "started" not in events
    assert events.count("ended") == 3
    assert "no such model can be built" in place.record().trials["t0000"].error


def test_a_sweep_without_any_completed_trial_exits_with_1(place: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    code = place.sweep(
        method="scripted", params=grid(fault=["raise", "nan"]), search=GRID, budget={"trials": 2, "epochs": 2}
    )
    assert code == 1
    assert "no trial completed" in capsys.readouterr().out
    assert (place.runs / "tiny-001" / "report.html").exists()
    assert place.mlflow_runs()[""].info.status == "FAILED"


def test_a_trial_without_a_first_report_in_time_fails_and_the_sweep_ends(place: Workplace) -> None:
    code = place.sweep(
        method="scripted",
        params=grid(fault=["hang", "none"]),
        search=GRID,
        budget={"trials": 2, "epochs": 1},
        resources={"concurrency": 1, "first_report_timeout_s": 15},
    )
    assert code == 0
    assert states(place.record()) == {"t0000": "FAILED", "t0001": "COMPLETED"}
    assert "first_report_timeout_s = 15 s" in place.record().trials["t0000"].error
