"""The study without Ray: trials are curves, processes are killed after any line of the journal."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from platform.search import study as study_module
from platform.search.study import MAX_INFEASIBLE_IN_A_ROW
from platform.specs.spec import Spec
from platform.sweeps.journal import Event, read_events, replay
from platform.sweeps.study_db import write_study
from tests.platform.simulated_sweep import (
    Disk,
    Killed,
    Session,
    curve,
    facts,
    objectives_of,
    rebuilt_study,
    run_killed_every,
    static_quantities,
)
from tests.platform.small_spec import make_spec, search

PLANE = {"lr": {"loguniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0, 0.9]}}
CONDITIONAL = {
    **PLANE,
    "model": {"choice": ["cnn", "xresnet1d18"]},
    "depth": {"randint": [1, 6], "when": {"model": "cnn"}},
}
FINITE = {"lr": {"choice": [1e-3, 1e-2]}, "dropout": {"quniform": [0, 0.4, 0.2]}}
TWO = [{"metric": "val/auroc", "mode": "max"}, {"metric": "val/loss", "mode": "min"}]
BOUND = ["onnx_bytes <= 7e5"]  # dropout >= 0.3


def small_spec(params: dict[str, Any] | None = None, constraints: list[str] | None = None, **keys: Any) -> Spec:
    budget = {"trials": 8, "epochs": 5, **keys.pop("budget", {})}
    section = {**search(), **keys}
    if isinstance(keys.get("metric"), list):
        section.pop("mode")
    return make_spec(params or PLANE, search=section, budget=budget, constraints=constraints or [])


def asha(**keys: Any) -> dict[str, Any]:
    return {"scheduler": "asha", "grace_period": 1, "reduction_factor": 2, **keys}


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


SPECS = {
    "tpe": small_spec(CONDITIONAL, BOUND, sampler="tpe", n_startup_trials=3, **asha()),
    "random": small_spec(PLANE, BOUND, sampler="random", **asha(brackets=2)),
    "qmc": small_spec(PLANE, BOUND, sampler="qmc", scheduler="median", grace_period=1),
    "cmaes": small_spec(PLANE, sampler="cmaes", population_size=4, **asha()),
    "nsgaii": small_spec(PLANE, BOUND, sampler="nsgaii", population_size=3),
    "nsgaii-two": small_spec(PLANE, ["peak_memory_bytes <= 4e8"], sampler="nsgaii", population_size=3, metric=TWO),
    "gp": small_spec(
        PLANE, ["peak_memory_bytes <= 4e8"], sampler="gp", n_startup_trials=2, budget={"trials": 5, "epochs": 2}
    ),
    "grid": small_spec(FINITE, ["onnx_bytes <= 9e5"], sampler="grid", **asha()),
}


# ------------------------------------------------------------------ killed at any moment


@pytest.mark.parametrize("sampler", SPECS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_study_killed_after_every_k_events_ends_like_an_unbroken_one(sampler: str, k: int, tmp_path: Path) -> None:
    spec = SPECS[sampler]
    unbroken, killed = Disk(tmp_path / "unbroken"), Disk(tmp_path / "killed")
    for one in (unbroken, killed):
        one.folder.mkdir()
    first = Session(spec, unbroken).run()
    second = run_killed_every(k, spec, killed)
    assert facts(second.study.optuna_study) == facts(first.study.optuna_study)
    assert second.record.epochs == first.record.epochs
    assert [t.state for t in second.record.trials.values()] == [t.state for t in first.record.trials.values()]
    assert [t.params for t in second.record.trials.values()] == [t.params for t in first.record.trials.values()]
    assert len(first.record.trials) >= 4


def test_no_trial_that_has_ended_runs_again(disk: Disk) -> None:
    run_killed_every(2, SPECS["tpe"], disk)
    ended: set[str] = set()
    for event in read_events(disk.folder):
        assert event.trial not in ended or not event.trial
        if event.kind == "ended":
            ended.add(event.trial)


def test_seeds_and_proposals_follow_from_the_spec_alone(tmp_path: Path) -> None:
    tasks = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tasks.append(Session(SPECS["tpe"], Disk(tmp_path / name)).run().proposed)
    assert tasks[0] == tasks[1]
    assert len({task["seed"] for task in tasks[0]}) == len(tasks[0])


def test_a_trial_that_the_rule_stopped_just_before_a_kill_does_not_go_on(disk: Disk) -> None:
    spec = small_spec(try_first=[{"lr": 1e-2, "dropout": 0.2}, {"lr": 1e-4, "dropout": 0.9}], **asha())
    killer = Session(spec, disk, kill_after=1 + 5 + 1 + 1 + 1)  # a whole trial, a proposal, its report at a rung
    with pytest.raises(Killed):
        killer.run()
    session = Session(spec, disk)
    assert session.study.propose()["trial"] == "t0002"  # type: ignore[index]
    assert session.record.trials["t0001"].state == "STOPPED"
    assert session.record.trials["t0001"].epochs == 1


def test_a_trial_that_lost_its_checkpoint_starts_over_and_its_repeated_reports_do_no_harm(tmp_path: Path) -> None:
    disk, spec = Disk(tmp_path), small_spec(budget={"trials": 2})
    with pytest.raises(Killed):
        Session(spec, disk, kill_after=4).run()
    disk.saved.clear()
    session = Session(spec, disk).run()
    trial = session.record.trials["t0000"]
    assert list(trial.reports) == [1, 2, 3, 4, 5]
    assert trial.attempts == 2
    assert session.record.epochs == 3 + 10  # the lost ones were trained too
    assert facts(session.study.optuna_study) == facts(rebuilt_study(spec, replay(read_events(disk.folder))))


def test_an_extended_budget_goes_on_where_the_sweep_ended(tmp_path: Path) -> None:
    whole, parts = Disk(tmp_path / "whole"), Disk(tmp_path / "parts")
    for one in (whole, parts):
        one.folder.mkdir()
    long = small_spec(n_startup_trials=3, budget={"trials": 8}, **asha())
    Session(small_spec(n_startup_trials=3, budget={"trials": 4}, **asha()), parts).run()
    extended = Session(long, parts).run()
    assert len(extended.proposed) == 4
    assert facts(extended.study.optuna_study) == facts(Session(long, whole).run().study.optuna_study)


# ------------------------------------------------------------------ what Optuna is told


def test_a_completed_trial_has_its_best_value_and_a_stopped_one_its_last(disk: Disk) -> None:
    def hill(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"val/auroc": curve(params, 5)["val/auroc"] - 0.01 * abs(epoch - 2)}

    session = Session(small_spec(sampler="random", budget={"trials": 8}, **asha()), disk, curve=hill).run()
    trials = session.study.optuna_study.trials
    completed = [t for t in trials if t.state == TrialState.COMPLETE]
    stopped = [t for t in trials if t.state == TrialState.PRUNED]
    assert completed and stopped
    for trial in completed:
        assert trial.value == max(trial.intermediate_values.values()) == trial.intermediate_values[2]
    for trial in stopped:
        assert trial.value == trial.intermediate_values[max(trial.intermediate_values)]


def test_a_failed_trial_is_told_as_failed_with_its_traceback_in_the_journal(disk: Disk) -> None:
    session = Session(small_spec(), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start(task["trial"])
    session.report(task, 1)
    session.study.on_message(task["trial"], {"outcome": "FAILED", "error": "Traceback: out of memory"})
    session.study.on_gone(task["trial"], error=None)
    (trial,) = session.study.optuna_study.trials
    assert (trial.state, trial.values) == (TrialState.FAIL, None)
    assert session.record.trials["t0000"].error == "Traceback: out of memory"
    assert session.study.propose() is not None


def test_several_objectives_are_those_of_the_best_epoch_by_the_first(disk: Disk) -> None:
    def crossing(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"val/auroc": 0.9 - 0.1 * abs(epoch - 3), "val/loss": 1.0 / epoch}

    session = Session(small_spec(sampler="random", metric=TWO, budget={"trials": 1}), disk, curve=crossing).run()
    (trial,) = session.study.optuna_study.trials
    assert trial.values == pytest.approx([0.9, 1 / 3])
    assert trial.intermediate_values == {}


def test_a_second_objective_that_no_trial_reports_fails_the_trial_and_not_the_sweep(disk: Disk) -> None:
    def half(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        return {"val/auroc": 0.5}

    spec = small_spec(sampler="random", metric=TWO, budget={"trials": 2})
    session = Session(spec, disk, curve=half).run()
    assert [trial.state for trial in session.record.trials.values()] == ["FAILED", "FAILED"]
    assert "search.metric names 'val/loss'" in session.record.trials["t0000"].error


def test_constraints_are_judged_on_what_training_showed(disk: Disk) -> None:
    session = Session(small_spec(PLANE, ["val/loss <= 0.7"], sampler="random"), disk).run()
    for trial, record in zip(session.study.optuna_study.trials, session.record.trials.values(), strict=True):
        excess = max(record.reports[5]["val/loss"], 0) - 0.7  # the best epoch is the last
        assert trial.constraints == {"val/loss <= 0.7": pytest.approx(excess)}


def test_a_constraint_on_what_no_trial_reports_fails_the_trial_with_the_nearest_name(disk: Disk) -> None:
    session = Session(small_spec(PLANE, ["val/los <= 0.7"], budget={"trials": 1}), disk).run()
    record = session.record.trials["t0000"]
    assert record.state == "FAILED"
    assert "no trial reports 'val/los'; did you mean 'val/loss'" in record.error


def test_the_journal_hears_of_an_event_before_optuna_and_optuna_before_nobody(disk: Disk) -> None:
    """Every observer finds the line on disk, and Optuna's trial still running."""
    seen: list[tuple[str, str]] = []

    def look(event: Event) -> None:
        on_disk = list(read_events(disk.folder))[-1]
        assert on_disk == event
        if event.kind == "ended":
            seen.append((event.trial, session.study.optuna_study.trials[-1].state.name))

    session = Session(small_spec(budget={"trials": 2}), disk, observers=[look])
    session.run()
    assert seen == [("t0000", "RUNNING"), ("t0001", "RUNNING")]


# ------------------------------------------------------------------ proposals


def test_an_infeasible_proposal_counts_as_a_proposal_but_never_becomes_a_trial(disk: Disk) -> None:
    session = Session(small_spec(PLANE, BOUND, sampler="random"), disk).run()
    n_infeasible = len(session.record.infeasible)
    assert n_infeasible > 0
    assert len(session.record.trials) == 8
    assert session.record.n_proposals == 8 + n_infeasible == len(session.study.optuna_study.trials)
    told = [t for t in session.study.optuna_study.trials if t.constraints["onnx_bytes <= 700000"] > 0]
    assert len(told) == n_infeasible
    assert {t.state for t in told} == {TrialState.PRUNED}
    assert all(task["params"]["dropout"] >= 0.3 for task in session.proposed)


def test_a_space_without_a_feasible_point_ends_the_sweep_with_the_reason(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "MAX_INFEASIBLE_IN_A_ROW", 30)
    session = Session(small_spec(PLANE, ["onnx_bytes <= 10"], sampler="random"), disk).run()
    assert session.record.trials == {}
    assert session.study.failure == (
        "30 proposals in a row break the constraints onnx_bytes <= 10; widen the space or loosen the bounds"
    )
    assert session.study.propose() is None
    assert session.record.n_proposals == 30
    assert MAX_INFEASIBLE_IN_A_ROW == 1000


def test_a_model_that_cannot_be_built_is_a_failed_trial(disk: Disk) -> None:
    def broken(params: Mapping[str, Any]) -> dict[str, float]:
        if params["dropout"] > 0.3:
            raise RuntimeError("size mismatch")
        return static_quantities(params)

    session = Session(small_spec(sampler="random"), disk, static_quantities=broken).run()
    failed = [trial for trial in session.record.trials.values() if trial.state == "FAILED"]
    assert failed and len(session.record.trials) == 8
    assert all("RuntimeError: size mismatch" in trial.error for trial in failed)
    assert session.study.failure == ""


def test_points_to_try_first_go_first_and_the_sampler_draws_what_they_leave_out(disk: Disk) -> None:
    points = [{"model": "cnn", "depth": 2}, {"lr": 1e-3}, {"model": "xresnet1d18", "dropout": 0.5}]
    session = Session(small_spec(CONDITIONAL, sampler="tpe", try_first=points), disk).run(4)
    tried = [trial.sampled for trial in session.record.trials.values()]
    assert [{name: tried[i][name] for name in point} for i, point in enumerate(points)] == points
    assert "depth" not in tried[2]
    assert all(1e-4 <= values["lr"] <= 1e-1 for values in tried)


def test_points_to_try_first_are_tried_once_although_the_process_is_killed(disk: Disk) -> None:
    points = [{"lr": 1e-3}, {"lr": 2e-3}]
    session = run_killed_every(1, small_spec(sampler="random", try_first=points, budget={"trials": 4}), disk)
    lrs = [trial.sampled["lr"] for trial in session.record.trials.values()]
    assert lrs[:2] == [1e-3, 2e-3]
    assert not {1e-3, 2e-3} & set(lrs[2:])


def test_a_grid_is_tried_whole_and_once(disk: Disk) -> None:
    spec = small_spec(FINITE, sampler="grid", budget={"trials": 100})
    session = Session(spec, disk).run()
    tried = [(t.sampled["lr"], t.sampled["dropout"]) for t in session.record.trials.values()]
    assert tried == [(lr, dropout) for lr in (1e-3, 1e-2) for dropout in (0.0, pytest.approx(0.2), pytest.approx(0.4))]
    assert session.study.propose() is None


# ------------------------------------------------------------------ budgets


def test_total_epochs_are_never_exceeded_and_end_the_running_trial_as_stopped(disk: Disk) -> None:
    session = Session(small_spec(budget={"trials": 8, "epochs": 5, "total_epochs": 12}), disk).run()
    assert session.record.epochs == 12
    assert [t.state for t in session.record.trials.values()] == ["COMPLETED", "COMPLETED", "STOPPED"]


def test_total_epochs_are_not_exceeded_by_trials_that_run_side_by_side(disk: Disk) -> None:
    session = Session(small_spec(budget={"trials": 8, "epochs": 5, "total_epochs": 5}), disk)
    tasks = [session.study.propose() for _ in range(2)]
    epoch, live = 0, [task for task in tasks if task is not None]
    for task in live:
        session.study.on_start(task["trial"])
    while live:
        epoch += 1
        live = [task for task in live if _go_on(session, task, epoch)]
    assert session.record.epochs == 5
    assert session.study.propose() is None


def _go_on(session: Session, task: Mapping[str, Any], epoch: int) -> bool:
    verdict = session.report(task, epoch)
    if verdict == "stop":
        session.study.on_message(task["trial"], {"outcome": "STOPPED", "error": ""})
    return verdict == "continue"


def test_a_trial_whose_own_last_epoch_spends_the_budget_is_completed(disk: Disk) -> None:
    params = {**PLANE, "epochs": 3}
    session = Session(small_spec(params, budget={"trials": 4, "epochs": 5, "total_epochs": 3}), disk).run()
    assert [(t.state, t.epochs) for t in session.record.trials.values()] == [("COMPLETED", 3)]


def test_spent_wall_time_ends_running_trials_as_stopped(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])

    def slow(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
        clock[0] += 1  # asked for each of the earlier epochs too
        return curve(params, epoch)

    session = Session(small_spec(budget={"wall_time_s": 22}), disk, curve=slow).run()
    states = [trial.state for trial in session.record.trials.values()]
    assert states == ["COMPLETED"] * (len(states) - 1) + ["STOPPED"]
    clock[0] += 1e6  # nobody works on the sweep meanwhile
    longer = Session(small_spec(budget={"wall_time_s": 60}), disk, curve=slow)
    assert longer.study.propose() is not None


def test_a_disk_without_room_ends_the_proposals_with_the_reason(disk: Disk) -> None:
    shortages = iter(["", "", "budget.disk_bytes: full"])
    session = Session(small_spec(), disk, shortage=lambda: next(shortages)).run()
    assert len(session.record.trials) == 2
    assert session.study.failure == "budget.disk_bytes: full"


# ------------------------------------------------------------------ ends that nobody asked for


def test_an_interrupt_leaves_the_running_trial_resumable(disk: Disk) -> None:
    session = Session(small_spec(budget={"trials": 3}), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start(task["trial"])
    session.report(task, 1)
    disk.saved[task["trial"]] = 2
    session.study.interrupt()
    assert session.report(task, 2) == "interrupt"
    session.study.on_message(task["trial"], {"outcome": "INTERRUPTED", "error": ""})
    session.study.on_gone(task["trial"], error=None)
    assert session.study.propose() is None
    assert session.record.trials["t0000"].state == "RUNNING"
    again = Session(small_spec(budget={"trials": 3}), disk).run()
    assert again.proposed[0]["trial"] == "t0000"
    assert again.proposed[0]["epochs_reported"] == 2
    assert again.record.trials["t0000"].attempts == 2
    assert [t.state for t in again.record.trials.values()] == ["COMPLETED"] * 3


def test_an_interrupt_at_a_trials_last_epoch_lets_it_complete(disk: Disk) -> None:
    session = Session(small_spec(budget={"trials": 3, "epochs": 2}), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start(task["trial"])
    session.report(task, 1)
    session.study.interrupt()
    assert session.report(task, 2) == "continue"


@pytest.mark.parametrize("n_reports", [0, 2])
def test_a_trial_whose_process_dies_again_and_again_is_failed(disk: Disk, n_reports: int) -> None:
    session = Session(small_spec(), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start(task["trial"])
    for epoch in range(1, n_reports + 1):
        session.report(task, epoch)
    for _ in range(3):  # resources.retries is 2
        session.study.on_gone(task["trial"], error="the worker was killed by SIGKILL")
    record = session.record.trials["t0000"]
    assert (record.state, record.error, record.losses) == ("FAILED", "the worker was killed by SIGKILL", 2)
    assert session.study.optuna_study.trials[0].state == TrialState.FAIL


def test_a_checkpoint_that_the_disk_does_not_take_interrupts_the_sweep_and_ends_no_trial(disk: Disk) -> None:
    session = Session(small_spec(), disk)
    session.study.propose()
    session.study.on_start("t0000")
    session.study.on_message("t0000", {"outcome": "UNSAVED", "error": "last.ckpt can't be written"})
    session.study.on_gone("t0000", error=None)
    assert session.study.propose() is None
    assert session.study.unsaved == "last.ckpt can't be written"
    assert session.record.trials["t0000"].state == "RUNNING"


def test_a_trial_whose_process_never_starts_is_handed_out_again_before_it_is_failed_too(disk: Disk) -> None:
    session = Session(small_spec(), disk)
    for _ in range(3):
        task = session.study.propose()
        assert task is not None and task["trial"] == "t0000"
        session.study.on_gone("t0000", error="the actor could not be made")
    assert session.record.trials["t0000"].state == "FAILED"


def test_what_was_lost_before_a_kill_counts_after_it(disk: Disk) -> None:
    session = Session(small_spec(), disk)
    session.study.propose()
    session.study.on_gone("t0000", error="the node died")
    session.journal.close()
    again = Session(small_spec(), disk)
    assert again.record.trials["t0000"].losses == 1
    task = again.study.propose()
    assert task is not None and task["trial"] == "t0000"


def test_a_trial_that_ends_without_a_report_is_failed(disk: Disk) -> None:
    session = Session(small_spec(), disk)
    session.study.propose()
    session.study.on_start("t0000")
    session.study.on_message("t0000", {"outcome": "COMPLETED", "error": ""})
    assert session.record.trials["t0000"].error == "the trial ended without a report"


def test_a_first_report_that_is_overdue_fails_the_trial_and_later_messages_are_dropped(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    session = Session(small_spec(), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start("t0000")
    clock[0] = 599.0
    assert not session.study.is_overdue("t0000")
    clock[0] = 601.0
    assert session.study.is_overdue("t0000")
    assert session.study.running == []
    assert "first_report_timeout_s = 600" in session.record.trials["t0000"].error
    session.study.on_message("t0000", {"epoch": 1, "metrics/val/auroc": 0.5})
    session.study.on_message("t0000", {"outcome": "COMPLETED", "error": ""})
    session.study.on_gone("t0000", error=None)
    assert [event.kind for event in read_events(disk.folder)] == ["opened", "proposed", "started", "ended"]


def test_a_resumed_trial_that_hangs_is_overdue_although_it_reported_before(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Killed):
        Session(small_spec(), disk, kill_after=3).run()
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    session = Session(small_spec(), disk)
    session.study.propose()
    session.study.on_start("t0000")
    clock[0] = 601.0
    assert session.study.is_overdue("t0000")


def test_a_trial_that_hangs_after_a_report_is_overdue_by_its_own_limit(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    session = Session(small_spec(), disk)
    task = session.study.propose()
    assert task is not None
    session.study.on_start("t0000")
    clock[0] = 100.0
    session.report(task, 1)
    clock[0] = 3699.0
    assert not session.study.is_overdue("t0000")
    clock[0] = 3701.0
    assert session.study.is_overdue("t0000")
    assert "report_timeout_s = 3600" in session.record.trials["t0000"].error


# ------------------------------------------------------------------ the file


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii-two"])
def test_the_study_on_disk_hears_of_every_event(sampler: str, disk: Disk) -> None:
    spec = SPECS[sampler]

    def on_disk(spec: Spec, record: Any) -> optuna.Study:
        return write_study(disk.folder / "study.db", "tiny", objectives_of(spec), record)

    session = run_killed_every(25, spec, disk, study_of=on_disk)
    assert facts(session.study.optuna_study) == facts(rebuilt_study(spec, session.record))
    with sqlite3.connect(disk.folder / "study.db") as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (session.record.n_proposals,)
