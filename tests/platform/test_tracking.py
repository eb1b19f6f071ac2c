"""The tracker mirrors a journal into MLflow, once, whatever happens on the way."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from platform import tracking
from platform.mlflow_views.mirror import Target
from platform.project import ROOT
from platform.sweeps.journal import Event
from platform.tracking import CURSOR_NAME, Outbox, Tracker
from tests.platform.journals import START_S, append_events, finished_sweep, write_journal

# MLflow 3.17 with SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

N_TRIALS = 8
EVENTS = finished_sweep(N_TRIALS)
N_METRICS_A_REPORT, N_STATIC = 3, 2


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that MLflow has made (2 s), to be copied."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        tracking.prepare_mlflow()
        MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep's folder in a project of its own, with MLflow's database and an empty journal."""
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    monkeypatch.chdir(tmp_path)  # MLflow makes ./mlruns
    sweep = tmp_path / "runs" / "quick"
    write_journal(sweep, [])
    return sweep


def target(folder: Path, **changes: object) -> Target:
    fields: dict[str, object] = {
        "uri": f"sqlite:///{folder.parents[1] / 'mlflow.db'}",
        "experiment": "synthetic_rhythm",
        "sweep": "quick",
        "tags": {"method": "supervised", "store": "synthetic_rhythm", "seed": "18"},
        "params": {"budget.trials": "20", "params.lr": "loguniform 1e-4 1e-2"},
    }
    return Target(**{**fields, **changes})  # type: ignore[arg-type]


def send(folder: Path, **changes: object) -> int:
    outbox = Outbox(folder, target(folder, **changes))
    try:
        return outbox.send()
    finally:
        outbox.release()


def runs(folder: Path) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=target(folder).uri)
    experiment = client.get_experiment_by_name("synthetic_rhythm")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_trial = {run.data.tags.get("trial", "parent"): run for run in found}
    assert len(by_trial) == len(found), "a trial has more than one run"
    return by_trial


def count_metric_rows(folder: Path) -> int:
    with sqlite3.connect(folder.parents[1] / "mlflow.db") as database:
        return int(database.execute("select count(*) from metrics").fetchone()[0])


def n_trial_metric_rows() -> int:
    return N_TRIALS * N_STATIC + N_METRICS_A_REPORT * sum(event.kind == "reported" for event in EVENTS)


def test_every_trial_is_a_child_of_the_sweeps_run_with_its_state_and_its_true_duration(folder: Path) -> None:
    write_journal(folder, EVENTS)
    assert send(folder) == len(EVENTS)
    found = runs(folder)
    assert len(found) == N_TRIALS + 1
    ends = {event.trial: event for event in EVENTS if event.kind == "ended"}
    starts = {event.trial: event for event in EVENTS if event.kind == "started"}
    for trial, end in ends.items():
        run = found[trial]
        assert run.data.tags["mlflow.parentRunId"] == found["parent"].info.run_id
        assert run.info.run_name == trial
        assert run.data.tags["state"] == end.body["state"]
        assert run.info.status == ("FAILED" if end.body["state"] == "FAILED" else "FINISHED")
        assert run.info.start_time == round(starts[trial].time_s * 1000)
        assert run.info.end_time == round(end.time_s * 1000)


def test_a_trials_run_holds_its_parameters_static_quantities_and_curve(folder: Path) -> None:
    write_journal(folder, EVENTS)
    send(folder)
    run = runs(folder)["t0000"]
    proposed = next(event for event in EVENTS if event.kind == "proposed")
    assert run.data.params == {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in proposed.body["params"].items()
    }
    assert run.data.metrics["onnx_bytes"] == proposed.body["static"]["onnx_bytes"]
    history = MlflowClient(tracking_uri=target(folder).uri).get_metric_history(run.info.run_id, "val/auroc")
    reported = [event for event in EVENTS if event.kind == "reported" and event.trial == "t0000"]
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (event.body["epoch"], event.body["metrics"]["val/auroc"], round(event.time_s * 1000)) for event in reported
    ]


def test_a_failed_trial_has_its_traceback_as_an_artifact_and_its_last_line_as_a_tag(folder: Path) -> None:
    write_journal(folder, EVENTS)
    send(folder)
    run = runs(folder)["t0006"]
    assert run.data.tags["error"] == "RuntimeError: <b>size</b> 12 vs 8"
    (traceback,) = (folder.parents[1] / "mlruns").glob(f"*/{run.info.run_id}/artifacts/traceback.txt")
    assert traceback.read_text().startswith("Traceback (most recent call last)")


def test_the_sweeps_run_holds_the_test_metrics_the_counts_and_the_files(folder: Path) -> None:
    write_journal(folder, EVENTS)
    (folder / "report.html").write_text("<html></html>")
    (folder / "best").mkdir()
    (folder / "best" / "model.onnx").write_bytes(b"onnx")
    send(folder)
    parent = runs(folder)["parent"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params == target(folder).params
    expected = {"test/auroc": 0.912, "test/auroc/low": 0.9, "test_looks": 1, "best/val/auroc": 0.93, "trials/failed": 1}
    assert {key: parent.data.metrics[key] for key in expected} == expected
    client = MlflowClient(tracking_uri=target(folder).uri)
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {"best", "report.html"}
    assert [file.path for file in client.list_artifacts(parent.info.run_id, "best")] == ["best/model.onnx"]


@pytest.mark.parametrize("cursor_is_lost", [False, True])
def test_sending_twice_doubles_neither_runs_nor_metrics(folder: Path, cursor_is_lost: bool) -> None:
    write_journal(folder, EVENTS)
    send(folder)
    n_rows = count_metric_rows(folder)
    assert n_rows >= n_trial_metric_rows()
    if cursor_is_lost:
        (folder / CURSOR_NAME).unlink()
    assert send(folder) == (len(EVENTS) if cursor_is_lost else 0)
    assert count_metric_rows(folder) == n_rows
    assert len(runs(folder)) == N_TRIALS + 1


def test_a_journal_sent_in_pieces_gives_the_same_runs(folder: Path) -> None:
    sent = 0
    for start in range(0, len(EVENTS), 37):
        append_events(folder, EVENTS[start : start + 37])
        sent += send(folder)
    assert sent == len(EVENTS)
    assert {run.info.status for run in runs(folder).values()} == {"FINISHED", "FAILED"}
    with sqlite3.connect(folder.parents[1] / "mlflow.db") as database:
        rows = database.execute("select count(*) from metrics where key in ('val/auroc', 'onnx_bytes')").fetchone()
    assert rows[0] == N_TRIALS + sum(event.kind == "reported" for event in EVENTS)


def test_a_run_deleted_in_the_interface_is_made_again_whole(folder: Path) -> None:
    middle = next(i for i, event in enumerate(EVENTS) if event.kind == "reported" and event.body["epoch"] == 2)
    append_events(folder, EVENTS[: middle + 1])
    send(folder)
    MlflowClient(tracking_uri=target(folder).uri).delete_run(runs(folder)["t0000"].info.run_id)
    append_events(folder, EVENTS[middle + 1 :])
    send(folder)
    run = runs(folder)["t0000"]
    history = MlflowClient(tracking_uri=target(folder).uri).get_metric_history(run.info.run_id, "val/auroc")
    assert [point.step for point in history] == list(range(1, len(history) + 1))
    assert run.data.params["batch_size"] == "64"


def interrupted_at(n_events: int) -> list[Event]:
    events = EVENTS[:n_events]
    return [*events, Event("closed", events[-1].time_s + 0.1, body={"reason": "interrupted"})]


def test_an_interrupted_sweep_leaves_no_run_running_and_a_resume_opens_the_same_runs_again(folder: Path) -> None:
    write_journal(folder, interrupted_at(6))
    send(folder)
    before = runs(folder)
    assert {run.info.status for run in before.values()} == {"KILLED"}
    assert before["t0000"].data.tags["state"] == "INTERRUPTED"
    later = EVENTS[5].time_s + 100
    append_events(folder, [Event("opened", later), Event("started", later, "t0000", {"attempt": 2})])
    send(folder)
    resumed = runs(folder)
    assert {run.info.status for run in resumed.values()} == {"RUNNING"}
    append_events(folder, EVENTS[6:])
    send(folder)
    after = runs(folder)
    assert {key: after[key].info.run_id for key in before} == {key: run.info.run_id for key, run in before.items()}
    assert "RUNNING" not in {run.info.status for run in after.values()}
    assert after["t0000"].data.tags["attempts"] == "2"


def test_a_killed_sweep_sent_by_hand_leaves_no_run_running(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(folder, EVENTS[:3])
    send(folder)
    append_events(folder, EVENTS[3:6])
    assert tracking.main([str(folder)]) == 0
    assert "sent 3 events" in capsys.readouterr().out
    assert {run.info.status for run in runs(folder).values()} == {"KILLED"}


def test_parameters_changed_by_an_extension_become_tags_since_mlflow_keeps_the_first(folder: Path) -> None:
    write_journal(folder, EVENTS)
    send(folder)
    append_events(folder, [Event("opened", EVENTS[-1].time_s + 60)])
    send(folder, params={**target(folder).params, "budget.trials": "40"})
    parent = runs(folder)["parent"]
    assert parent.data.params["budget.trials"] == "20"
    assert parent.data.tags["changed.budget.trials"] == "40"
    assert parent.info.status == "RUNNING"


def test_names_and_values_that_mlflow_refuses_are_fitted_to_its_limits(folder: Path) -> None:
    opened, proposed, started = EVENTS[:3]
    params = {**{f"p{i}": i for i in range(250)}, "text": "x" * 7000}
    long = Event("proposed", proposed.time_s, "t0000", {**proposed.body, "params": params})
    report = Event("reported", started.time_s, "t0000", {"epoch": 1, "metrics": {"val/auroc/STTC+": 0.5}})
    write_journal(folder, [opened, long, started, report])
    send(folder)
    run = runs(folder)["t0000"]
    assert len(run.data.params) == 251
    assert len(run.data.params["text"]) == 6000
    assert run.data.metrics["val/auroc/STTC_"] == 0.5


def test_two_sweeps_of_one_name_do_not_share_runs(folder: Path) -> None:
    write_journal(folder, EVENTS[:3])
    send(folder)
    other = folder.parents[1] / "elsewhere" / "quick"
    write_journal(other, [Event("opened", START_S + 1000), *EVENTS[1:3]])
    outbox = Outbox(other, target(folder))
    outbox.send()
    outbox.release()
    found = MlflowClient(tracking_uri=target(folder).uri).search_runs(["1"])
    assert len(found) == 4


def test_a_line_that_is_still_being_written_waits(folder: Path) -> None:
    path = write_journal(folder, EVENTS[:3])
    with path.open("a") as file:
        file.write(EVENTS[3].to_line()[:-10])
    assert send(folder) == 3


def test_a_second_process_is_refused_while_the_first_sends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(folder, EVENTS[:3])
    outbox = Outbox(folder, target(folder))
    outbox.send()
    assert tracking.main([str(folder)]) == 1
    assert "another process is sending" in capsys.readouterr().err
    outbox.release()
    assert tracking.main([str(folder)]) == 0


def test_a_folder_that_was_never_tracked_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracking.main([str(tmp_path)]) == 2
    assert f"has no {CURSOR_NAME}; name the folder of a sweep" in capsys.readouterr().err


def test_the_tracker_follows_a_growing_journal_and_close_sends_the_rest(folder: Path) -> None:
    fields = target(folder)
    write_journal(folder, EVENTS[:4])
    tracker = Tracker(folder, fields.uri, fields.experiment, fields.tags, fields.params, fields.sweep)
    append_events(folder, EVENTS[4:])
    assert tracker.close(timeout_s=30) == 0
    assert tracker.error == ""
    assert len(runs(folder)) == N_TRIALS + 1


def test_a_dead_server_blocks_neither_the_sweep_nor_its_end(tmp_path: Path) -> None:
    with socket.socket() as listener:  # accepts connections and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        write_journal(tmp_path, EVENTS)
        begin = time.monotonic()
        tracker = Tracker(tmp_path, uri, "exp", {}, {}, "quick")
        assert tracker.close(timeout_s=1.0) == len(EVENTS)
        assert time.monotonic() - begin < 3.0


def test_a_database_that_is_none_is_told_and_stops_nothing(folder: Path) -> None:
    (folder.parents[1] / "mlflow.db").write_bytes(b"not a database" * 100)
    write_journal(folder, EVENTS)
    fields = target(folder)
    tracker = Tracker(folder, fields.uri, fields.experiment, fields.tags, fields.params, fields.sweep)
    assert tracker.close(timeout_s=10) == len(EVENTS)
    assert "file is not a database" in tracker.error


def test_what_a_dead_server_missed_is_sent_later(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_journal(folder, EVENTS)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
    tracker = Tracker(folder, uri, "synthetic_rhythm", {}, {}, "quick")
    assert tracker.close(timeout_s=3.0) == len(EVENTS)
    for thread in threading.enumerate():  # the attempt under way
        if thread.name == "mlflow-tracker":
            thread.join(30)
    assert "Connection refused" in tracker.error or "Max retries" in tracker.error
    assert tracking.main([str(folder)]) == 1
    assert f"{len(EVENTS)} events are not sent to {uri}" in capsys.readouterr().err
    assert send(folder) == len(EVENTS)


def test_an_error_on_the_way_leaves_the_cursor_at_what_was_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_journal(folder, EVENTS)
    monkeypatch.setattr(tracking, "MAX_EVENTS_AT_ONCE", 50)
    outbox = Outbox(folder, target(folder))
    n_calls, log_batch = 0, MlflowClient.log_batch

    def fail_at_tenth(self: MlflowClient, *args: object, **kwargs: object) -> object:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 10:
            raise MlflowException("the server is restarting")
        return log_batch(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "log_batch", fail_at_tenth)
    with pytest.raises(MlflowException, match="restarting"):
        outbox.send()
    assert 0 < outbox.count_unsent() < len(EVENTS)
    outbox.send()
    outbox.release()
    assert outbox.count_unsent() == 0
    assert len(runs(folder)) == N_TRIALS + 1


def test_a_relative_database_lies_in_the_projects_root_with_its_artifacts_beside_it() -> None:
    place = Target("sqlite:///mlflow.db", "ptbxl", "quick", {}, {})
    assert place.resolved_uri == f"sqlite:///{ROOT}/mlflow.db"
    assert place.artifact_location == (ROOT / "mlruns" / "ptbxl").as_uri()
    assert Target("http://server:5000", "ptbxl", "quick", {}, {}).artifact_location is None


def test_a_sweeps_name_with_a_quote_is_refused() -> None:
    with pytest.raises(ValueError, match="must not hold a quote"):
        Target("sqlite:///mlflow.db", "ptbxl", "it's", {}, {})


def test_a_fold_is_a_run_below_its_trial_and_a_repeat_one_below_the_sweep(folder: Path) -> None:
    def at(kind: str, trial: str = "", **body: object) -> Event:
        return Event(kind, START_S, trial, body)  # type: ignore[arg-type]

    proposed = {"number": 0, "params": {"lr": 0.1}, "sampled": {}, "distributions": {}, "static": {}}
    reported = {"val/auroc": 0.8, "fold1/val/auroc": 0.7, "fold2/val/auroc": 0.9}
    events = [at("opened", resumed=False), at("proposed", "t0000", **proposed)]
    for trial in ("t0000", "t0000-r1"):
        events += [at("started", trial, attempt=1), at("reported", trial, epoch=1, metrics=reported)]
        events += [at("ended", trial, state="COMPLETED", error="", constraints={})]
    events.insert(5, at("repeat", "t0000-r1", of="t0000", number=1, seed=77, params={"lr": 0.1}, static={}))
    look = {"trial": "t0000-r1", "metrics": {"auroc": 0.6}, "intervals": {"auroc": [0.5, 0.7]}}
    events += [at("tested", repeat=look), at("closed", reason="done")]
    append_events(folder, events[:4])
    send(folder)
    append_events(folder, events[4:])
    send(folder)
    send(folder)  # a second time changes nothing

    client = MlflowClient(tracking_uri=target(folder).uri)
    experiment = client.get_experiment_by_name("synthetic_rhythm")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert sorted(by_name) == sorted(
        ["quick", "t0000", "t0000/fold1", "t0000/fold2", "t0000-r1", "t0000-r1/fold1", "t0000-r1/fold2"]
    )
    assert len(found) == len(by_name)
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in by_name.items()}
    assert parents["t0000/fold2"] == by_name["t0000"].info.run_id
    assert parents["t0000-r1"] == parents["t0000"] == by_name["quick"].info.run_id
    assert by_name["t0000"].data.metrics == {"val/auroc": 0.8}
    assert by_name["t0000/fold2"].data.metrics == {"val/auroc": 0.9}
    repeat = by_name["t0000-r1"].data
    assert (repeat.tags["repeat_of"], repeat.tags["trial_seed"]) == ("t0000", "77")
    assert (repeat.metrics["test/auroc"], repeat.metrics["test/auroc/low"]) == (0.6, 0.5)
    assert by_name["quick"].data.metrics["test_looks"] == 1
    assert "test/auroc" not in by_name["quick"].data.metrics, "of the chosen trial alone"
    assert {run.info.status for run in found} == {"FINISHED"}
