"""Who asks is told of every new best trial, and of no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform.search import incumbents
from platform.search.incumbents import Incumbents
from platform.sweeps.journal import SweepRecord
from tests.platform.journals import finished_sweep


def test_each_new_best_trial_is_told_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(incumbents, "read_trained_model", lambda folder, trial: trial)
    told: list[str] = []
    record = SweepRecord()
    observer = Incumbents(tmp_path, record, [("val/auroc", "max")], lambda folder, trained: told.append(str(trained)))
    expected, best = [], 0.0
    for event in finished_sweep(20):
        record.apply(event)
        observer.on_event(event)
        if event.kind == "ended" and event.body["state"] != "FAILED":
            value = record.trials[event.trial].best("val/auroc", maximise=True)
            assert value is not None
            if value > best:
                expected.append(event.trial)
                best = value
    assert told == expected
    assert len(told) > 1
