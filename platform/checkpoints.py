"""Which checkpoints stay on disk: a live trial's last and best, and the best of the trials worth keeping."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from platform.journal import Event, SweepRecord, TrialRecord
from platform.study_db import Objectives
from platform.sweep_folder import size_bytes

from trainables.tune_trial import LAST_FILE

KEPT_TRIALS = 10


class CheckpointKeeper:
    """Removes the checkpoints that can't be wanted any more, whenever a trial ends.

    Args:
        folder: the trials' folders are in it.
        disk_bytes: most bytes that ended trials' checkpoints may take; the best trial's stays in any case.
    """

    def __init__(self, folder: Path, record: SweepRecord, objectives: Objectives, disk_bytes: float | None) -> None:
        self._folder, self._record, self._objectives = folder, record, objectives
        self._disk_bytes = disk_bytes

    def on_event(self, event: Event) -> None:
        if event.kind == "ended":
            (self._folder / event.trial / LAST_FILE).unlink(missing_ok=True)
            self._prune()

    def _prune(self) -> None:
        ranked = self._ranked()
        # A front may hold any trial that is good at the second objective, so several objectives keep all.
        n_kept = KEPT_TRIALS if len(self._objectives) == 1 else len(ranked)
        kept = [trial.trial for trial in ranked[:n_kept]]
        while len(kept) > 1 and self._disk_bytes is not None and self._size(kept) > self._disk_bytes:
            kept.pop()
        for trial in self._record.trials.values():
            if trial.state in ("COMPLETED", "STOPPED", "FAILED") and trial.trial not in kept:
                shutil.rmtree(self._folder / trial.trial, ignore_errors=True)

    def _ranked(self) -> list[TrialRecord]:
        return rank(self._record, self._objectives)

    def _size(self, trials: Sequence[str]) -> int:
        return sum(size_bytes(self._folder / trial) for trial in trials)


def rank(record: SweepRecord, objectives: Objectives) -> list[TrialRecord]:
    """Return the COMPLETED and STOPPED trials that keep the constraints, best first by the first objective."""
    metric, mode = objectives[0]
    sign = 1.0 if mode == "max" else -1.0
    feasible = [
        trial
        for trial in record.trials.values()
        if trial.state in ("COMPLETED", "STOPPED") and all(excess <= 0 for excess in trial.constraints.values())
    ]

    def score(trial: TrialRecord) -> float:
        best = trial.best(metric, maximise=mode == "max")
        assert best is not None, "a trial without a report is FAILED"
        return sign * best

    return sorted(feasible, key=score, reverse=True)
