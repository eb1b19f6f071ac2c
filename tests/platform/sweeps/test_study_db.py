from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution, distribution_to_json
from optuna.study import StudyDirection
from optuna.trial import TrialState

from platform.sweeps.journal import Event, SweepRecord, replay
from platform.sweeps.study_db import (
    FILE_NAME,
    Objectives,
    frozen_trials,
    outcome_quantities,
    outcome_values,
    write_study,
)
from tests.platform.journals import finished_sweep
from tests.platform.simulated_sweep import Disk, Session, curve, facts, objectives_of
from tests.platform.small_spec import make_spec, search

ONE: Objectives = [("val/auroc", "max")]
TWO: Objectives = [("val/auroc", "max"), ("val/loss", "min")]
PARAMS = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "dropout": {"uniform": [0, 0.9]},
    "model": {"choice": ["cnn", "xresnet1d18"]},
    "depth": {"randint": [1, 6], "when": {"model": "cnn"}},
}


def lively_session(folder: Path, **keys: Any) -> Session:
    """Run a sweep with trials in every state: completed, stopped, failed, infeasible, running, only proposed."""
    section = {**search(scheduler="asha", grace_period=1, reduction_factor=2), **keys}
    if isinstance(keys.get("metric"), list):
        section.pop("mode")
    constraints = ["onnx_bytes <= 7e5", "peak_memory_bytes <= 4e8"]
    spec = make_spec(PARAMS, search=section, budget={"trials": 30, "epochs": 5}, constraints=constraints)

    def study_of(spec: Any, record: SweepRecord) -> optuna.Study:
        return write_study(folder / FILE_NAME, "lively", objectives_of(spec), record)

    session = Session(spec, Disk(folder), study_of=study_of)
    session.run(6)
    session = Session(spec, Disk(folder), study_of=study_of)
    failing, running, _ = (session.study.propose() for _ in range(3))
    assert failing is not None and running is not None
    for task in (failing, running):
        session.study.on_start(task["trial"])
        session.report(task, 1)
    session.study.on_message(failing["trial"], {"outcome": "FAILED", "error": "Traceback"})
    return session


@pytest.mark.parametrize("keys", [{}, {"metric": [{"metric": m, "mode": mode} for m, mode in TWO]}])
def test_a_rebuilt_study_equals_the_original(tmp_path: Path, keys: dict[str, Any]) -> None:
    session = lively_session(tmp_path, **keys)
    original, objectives = session.study.optuna_study, objectives_of(session.study.spec)
    rebuilt = write_study(tmp_path / "rebuilt.db", "lively", objectives, session.record)
    assert facts(rebuilt) == facts(original)
    assert rebuilt.directions == original.directions
    assert rebuilt.metric_names == original.metric_names == [metric for metric, _ in objectives]
    states = {trial.state for trial in rebuilt.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING}
    assert any("trial" not in trial.user_attrs for trial in rebuilt.trials)  # an infeasible one
    assert [trial.number for trial in rebuilt.trials] == list(range(session.record.n_proposals))


def test_a_rebuilt_study_has_the_journals_times(tmp_path: Path) -> None:
    record = replay(finished_sweep(3))
    study = write_study(tmp_path / FILE_NAME, "made", ONE, record)
    for trial, one in zip(study.trials, record.trials.values(), strict=True):
        assert one.ended_s is not None
        assert trial.datetime_start == datetime.datetime.fromtimestamp(one.proposed_s)
        assert trial.datetime_complete == datetime.datetime.fromtimestamp(one.ended_s)


def test_the_file_opens_by_its_name_in_any_optuna(tmp_path: Path) -> None:
    record = replay(finished_sweep(5))
    write_study(tmp_path / FILE_NAME, "tiny-001", ONE, record)
    study = optuna.load_study(study_name="tiny-001", storage=f"sqlite:///{tmp_path / FILE_NAME}")
    assert study.directions == [StudyDirection.MAXIMIZE]
    best = max(one.best("val/auroc", maximise=True) or 0 for one in record.trials.values() if one.state == "COMPLETED")
    assert study.best_value == best


def test_the_file_opens_in_optuna_dashboard(tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    write_study(tmp_path / FILE_NAME, "tiny-001", ONE, replay(finished_sweep(5)))
    app = dashboard.wsgi(f"sqlite:///{tmp_path / FILE_NAME}")
    answers: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies", "SERVER_NAME": "x", "SERVER_PORT": "80",
               "wsgi.url_scheme": "http"}  # fmt: skip
    body = b"".join(app(environ, lambda status, headers, *_: answers.append(status)))
    assert answers == ["200 OK"]
    assert b'"tiny-001"' in body


def test_writing_anew_replaces_the_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_study(tmp_path / FILE_NAME, "a", ONE, replay(finished_sweep(2)))
    study = write_study(tmp_path / FILE_NAME, "a", ONE, replay(finished_sweep(3)))
    assert len(study.trials) == 3
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_half_written_file_of_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "study.new").write_bytes(b"SQLite format 3\0 torn")
    assert len(write_study(tmp_path / FILE_NAME, "a", ONE, replay(finished_sweep(2))).trials) == 2


def test_the_reopened_study_takes_new_trials(tmp_path: Path) -> None:
    write_study(tmp_path / FILE_NAME, "a", ONE, replay(finished_sweep(2)))
    study = write_study(tmp_path / FILE_NAME, "a", ONE, replay(finished_sweep(2)))
    trial = study.ask()
    study.tell(trial, 0.5)
    assert optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path / FILE_NAME}").trials[2].value == 0.5


# ------------------------------------------------------------------ what a trial is worth


def record_of(reports: dict[int, dict[str, float]], state: str = "COMPLETED") -> SweepRecord:
    body = {"number": 0, "params": {}, "sampled": {"lr": 0.1}, "static": {"parameters": 10.0},
            "distributions": {"lr": distribution_to_json(FloatDistribution(0, 1))}}  # fmt: skip
    events = [Event("opened", 0), Event("proposed", 1, "t0000", body)]
    events += [Event("reported", 1 + e, "t0000", {"epoch": e, "metrics": m}) for e, m in reports.items()]
    return replay([*events, Event("ended", 99, "t0000", {"state": state})])


REPORTS = {
    1: {"val/auroc": 0.6, "val/loss": 0.9, "peak_memory_bytes": 1.0},
    2: {"val/auroc": 0.8, "val/loss": 0.7, "peak_memory_bytes": 2.0},
    3: {"val/auroc": 0.8, "val/loss": 0.5, "peak_memory_bytes": 3.0},
}


def test_the_objectives_are_those_of_the_first_best_epoch_whose_weights_are_kept() -> None:
    trial = record_of(REPORTS).trials["t0000"]
    assert outcome_values(trial, TWO) == [0.8, 0.7]
    assert outcome_values(trial, [("val/loss", "min")]) == [0.5]
    assert outcome_quantities(trial, TWO)["parameters"] == 10.0


def test_an_objective_that_was_not_reported_is_named_with_those_that_were() -> None:
    trial = record_of({1: curve({"lr": 1e-2, "dropout": 0.2}, 1)}).trials["t0000"]
    with pytest.raises(ValueError, match=r"search.metric names 'val/f1', which the trial does not report: \['param"):
        outcome_values(trial, [("val/auroc", "max"), ("val/f1", "max")])


@pytest.mark.parametrize(("state", "value"), [("COMPLETED", 0.8), ("STOPPED", 0.8), ("FAILED", None)])
def test_values_by_state(state: str, value: float | None) -> None:
    (trial,) = frozen_trials(record_of(REPORTS, state), ONE)
    assert trial.values == (None if value is None else [value])
    assert trial.intermediate_values == {1: 0.6, 2: 0.8, 3: 0.8}
