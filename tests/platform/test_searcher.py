from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from ray.tune.search import Searcher

from platform.scheduler import CooperativeScheduler
from platform.searcher import StudySearcher, TrialStarts
from tests.platform.simulated_sweep import Disk, Session
from tests.platform.specs import make_spec


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(make_spec(budget={"trials": 2, "epochs": 3}), Disk(tmp_path))


def test_tune_gets_the_studys_tasks_and_then_the_end(session: Session) -> None:
    searcher = StudySearcher(session.study)
    assert [searcher.suggest(f"tune-{i}")["trial"] for i in range(2)] == ["t0000", "t0001"]
    assert searcher.suggest("tune-2") == Searcher.FINISHED


def test_results_come_through_the_scheduler_alone(session: Session) -> None:
    searcher = StudySearcher(session.study)
    searcher.suggest("tune-0")
    searcher.on_trial_result("tune-0", {"epoch": 1, "metrics/val/auroc": 0.5})
    searcher.on_trial_complete("tune-0", {"epoch": 1})
    assert session.record.trials["t0000"].state == "PROPOSED"
    assert session.record.trials["t0000"].reports == {}


def test_a_trial_has_started_when_tune_says_so_and_the_view_has_its_turn_after_each_step(session: Session) -> None:
    steps: list[int] = []
    starts = TrialStarts(session.study, on_step=lambda: steps.append(1))
    task = StudySearcher(session.study).suggest("tune-0")
    trial: Any = SimpleNamespace(config=task)
    starts.on_trial_start(iteration=0, trials=[trial], trial=trial)
    starts.on_step_end(iteration=0, trials=[trial])
    assert session.record.trials["t0000"].state == "RUNNING"
    assert session.study.running == ["t0000"]
    assert steps == [1]


def test_tunes_snapshots_hold_nothing_of_the_study(session: Session, tmp_path: Path) -> None:
    searcher = StudySearcher(session.study)
    for part in (searcher, CooperativeScheduler(session.study), TrialStarts(session.study, on_step=lambda: None)):
        assert b"Study" not in cloudpickle.dumps(part).replace(b"StudySearcher", b"")
    searcher.save(str(tmp_path / "searcher.pkl"))
    searcher.save_to_dir(str(tmp_path))
    assert not list(tmp_path.glob("*.pkl"))
    assert searcher.get_state() == {}
