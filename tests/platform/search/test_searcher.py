from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from ray.tune.experiment import Trial
from ray.tune.search import Searcher
from ray.tune.trainable.metadata import _TrainingRunMetadata

from platform.search.scheduler import CooperativeScheduler
from platform.search.searcher import WHOLE_TRIALS, StudySearcher, TrialProcesses
from platform.sweeps.journal import read_events
from tests.platform.simulated_sweep import Disk, Session
from tests.platform.small_spec import make_spec


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(make_spec(budget={"trials": 2, "epochs": 3}), Disk(tmp_path))


def searcher_of(session: Session, concurrency: int = 10) -> StudySearcher:
    return StudySearcher(session.study, lambda: concurrency)


def tune_trial(config: dict[str, Any], error_file: Path) -> Any:
    return SimpleNamespace(config=config, error_file=str(error_file))


def test_a_proposal_waits_until_the_cluster_has_room_for_it(session: Session) -> None:
    room = 1
    searcher = StudySearcher(session.study, lambda: room)
    assert searcher.suggest("tune-0")["trial"] == "t0000"
    assert searcher.suggest("tune-1") is None
    room = 2  # a node has joined
    assert searcher.suggest("tune-1")["trial"] == "t0001"
    room = 1  # and left
    searcher.on_trial_complete("tune-0")
    assert searcher.suggest("tune-2") is None
    searcher.on_trial_complete("tune-1")
    assert searcher.suggest("tune-2") == Searcher.FINISHED


def test_a_trial_whose_process_died_goes_on_from_what_it_has_reported(session: Session, tmp_path: Path) -> None:
    processes, searcher = TrialProcesses(session.study, on_step=lambda: None), searcher_of(session)
    configs = [searcher.suggest(name) for name in ("tune-0", "tune-1")]
    task = json.loads(configs[0]["task"])
    (tmp_path / "error.txt").write_text("the node died")
    trial = tune_trial(configs[0], tmp_path / "error.txt")
    processes.on_trial_start(iteration=0, trials=[trial], trial=trial)
    session.report(task, 1)
    session.report(task, 2)
    assert searcher.suggest("tune-2") is None, "no end while a trial is under way"
    searcher.on_trial_complete("tune-0", error=True)
    processes.on_trial_error(iteration=0, trials=[trial], trial=trial)
    assert session.study.running == []
    assert json.loads(searcher.suggest("tune-3")["task"]) == {**task, "epochs_reported": 2}
    processes.on_trial_start(iteration=0, trials=[trial], trial=trial)
    record = session.record.trials["t0000"]
    assert (record.state, record.attempts, record.losses) == ("RUNNING", 2, 1)
    assert [event.body["error"] for event in read_events(tmp_path) if event.kind == "lost"] == ["the node died"]


def test_tune_forgets_a_trial_once_many_others_have_ended_after_it(session: Session, tmp_path: Path) -> None:
    processes = TrialProcesses(session.study, on_step=lambda: None)
    # Not Tune's own constructor, which wants its storage: what is tested is which attributes stay.
    trials: Any = [Trial.__new__(Trial) for _ in range(WHOLE_TRIALS + 2)]
    for number, trial in enumerate(trials):
        vars(trial).update(trial_id=str(number), status="TERMINATED", trainable_name="trial", custom_trial_name=None)
        vars(trial).update(config={"trial": "t0000"}, stub=True, run_metadata=_TrainingRunMetadata())
    first, last = trials[0], trials[-1]
    for trial in list(trials):
        processes.on_trial_complete(iteration=0, trials=trials, trial=trial)
        processes.on_step_end(iteration=0, trials=trials)
    assert [trial.trial_id for trial in trials] == [str(number) for number in range(2, WHOLE_TRIALS + 2)]
    assert (first.trial_id, first.config, first.is_finished(), str(first)) == ("0", {}, True, "trial_0")
    assert not hasattr(first, "run_metadata")
    assert last.run_metadata is not None


def test_tune_gets_the_studys_tasks_and_then_the_end(session: Session) -> None:
    searcher = searcher_of(session)
    assert [searcher.suggest(f"tune-{i}")["trial"] for i in range(2)] == ["t0000", "t0001"]
    assert searcher.suggest("tune-2") is None
    for name in ("tune-0", "tune-1"):
        searcher.on_trial_complete(name)
    assert searcher.suggest("tune-3") == Searcher.FINISHED


def test_results_come_through_the_scheduler_alone(session: Session) -> None:
    searcher = searcher_of(session)
    searcher.suggest("tune-0")
    searcher.on_trial_result("tune-0", {"epoch": 1, "metrics/val/auroc": 0.5})
    searcher.on_trial_complete("tune-0", {"epoch": 1})
    assert session.record.trials["t0000"].state == "PROPOSED"
    assert session.record.trials["t0000"].reports == {}


def test_a_trial_has_started_when_tune_says_so_and_the_view_has_its_turn_after_each_step(session: Session) -> None:
    steps: list[int] = []
    starts = TrialProcesses(session.study, on_step=lambda: steps.append(1))
    task = searcher_of(session).suggest("tune-0")
    trial: Any = SimpleNamespace(config=task)
    starts.on_trial_start(iteration=0, trials=[trial], trial=trial)
    starts.on_step_end(iteration=0, trials=[trial])
    assert session.record.trials["t0000"].state == "RUNNING"
    assert session.study.running == ["t0000"]
    assert steps == [1]


def test_tunes_snapshots_hold_nothing_of_the_study(session: Session, tmp_path: Path) -> None:
    searcher = searcher_of(session)
    for part in (searcher, CooperativeScheduler(session.study), TrialProcesses(session.study, lambda: None)):
        assert b"Study" not in cloudpickle.dumps(part).replace(b"StudySearcher", b"")
    searcher.save(str(tmp_path / "searcher.pkl"))
    searcher.save_to_dir(str(tmp_path))
    assert not list(tmp_path.glob("*.pkl"))
    assert searcher.get_state() == {}
