"""A method that needs no torch runs in processes that have none; all the rest of its sweep is as any other's."""

from __future__ import annotations

import pytest

from benchmarks.waiting import HAS_TORCH, WAITING
from tests.sweeps.workplace import Workplace, states
from trainables.methods import METHODS


def test_a_method_without_torch_trains_in_processes_without_torch(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, WAITING.name, WAITING)
    marks = place.folder / "marks"
    marks.mkdir()
    params = {"x": {"uniform": [0, 1]}, "n_at_once": 2, "meeting_place": str(marks)}
    code = place.sweep(
        method=WAITING.name, params=params, budget={"trials": 2, "epochs": 1}, resources={"concurrency": 2}
    )
    assert code == 0
    record = place.record()
    assert set(states(record).values()) == {"COMPLETED"}
    assert [trial.reports[1][HAS_TORCH] for trial in record.trials.values()] == [0.0, 0.0]
