"""Which checkpoints stay on disk: a live trial's last and best, and the best of the trials worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.bucket import fetch, folders, remove
from platform.sweeps.folder import size_bytes
from platform.sweeps.journal import ENDED, Event, SweepRecord, TrialRecord
from platform.sweeps.pareto import Axes, front_of
from platform.sweeps.study_db import Objectives
from trainables.tune_trial import BEST_FILE

KEPT_TRIALS = 10


class CheckpointKeeper:
    """Removes the checkpoints that can't be wanted any more, whenever a trial ends, and watches the disk.

    Args:
        folder: the sweep's.
        trials: the trials' folders are in it.
        disk_bytes: most bytes that the sweep's folder may take; the best trial's checkpoint stays in any case.
        cell: a trial's params -> its cell of the method's own table; the best of every cell stays in any case too.
        axes: the models that none dominates in these stay where the disk allows it: one of them is chosen in the end.
    """

    def __init__(
        self,
        folder: Path,
        trials: Path,
        record: SweepRecord,
        objectives: Objectives,
        disk_bytes: float | None,
        cell: Callable[[Mapping[str, Any]], str] | None = None,
        axes: Axes = (),
    ) -> None:
        self._folder, self._trials, self._record, self._objectives = folder, trials, record, objectives
        self._disk_bytes, self._cell, self._axes = disk_bytes, cell, axes
        self._largest = 0  # bytes of the largest trial seen: what the next one may need
        self._tidied: set[str] = set()
        self._prune()  # a kill may have come between a trial's end and this

    def on_event(self, event: Event) -> None:
        if event.kind == "ended":
            self._see(event.trial)
            self._prune()

    def shortage(self) -> str:
        """Remove kept checkpoints, worst first, until one more trial fits; say so in one line where it does not.

        A trial may need as much as the largest so far, and those under way may still grow to that.
        """
        if self._disk_bytes is None:
            return ""
        kept = self._kept()
        n_needed = len(self._needed())
        while self._planned_bytes() > self._disk_bytes and len(kept) > n_needed:
            remove(self._trials / kept.pop())
        planned = self._planned_bytes()
        if planned <= self._disk_bytes:
            return ""
        return (
            f"budget.disk_bytes: {self._folder} would take {planned:,.0f} bytes with one more trial, more than "
            f"{self._disk_bytes:,.0f}; resume with a higher budget.disk_bytes"
        )

    def _planned_bytes(self) -> int:
        live = [trial.trial for trial in self._record.trials.values() if trial.state not in ENDED]
        sizes = [self._see(trial) for trial in live]
        growth = sum(self._largest - size for size in sizes)
        return size_bytes(self._folder) + growth + self._largest

    def _see(self, trial: str) -> int:
        size = size_bytes(self._trials / trial)
        self._largest = max(self._largest, size)
        return size

    def _prune(self) -> None:
        kept = self._kept()
        known = {**self._record.trials, **self._record.repeats}
        for name in folders(self._trials):
            trial = known.get(name)
            if trial is None or trial.state not in ENDED:
                continue
            if not trial.repeat_of and name not in kept:
                remove(self._trials / name)
            elif name not in self._tidied:
                self._tidy(self._trials / name)
                self._tidied.add(name)

    def _tidy(self, folder: Path) -> None:
        """Leave a trial its best weights alone, and have them here."""
        fetch(folder)
        for path in folder.iterdir():
            if path.name != BEST_FILE:
                remove(path)

    def _kept(self) -> list[str]:
        """Return the ended trials whose checkpoints stay: those that are needed, the front, the others, best first."""
        ranked: Sequence[TrialRecord] = rank(self._record, self._objectives)
        # A front may hold any trial that is good at the second objective, so several objectives keep all.
        n_kept = KEPT_TRIALS if len(self._objectives) == 1 else len(ranked)
        front = front_of(ranked, self._axes, self._objectives)
        return [*dict.fromkeys([*self._needed(), *(trial.trial for trial in [*front, *ranked[:n_kept]])])]

    def _needed(self) -> list[str]:
        """Return the trials that the sweep's end evaluates: the best, and the best of every cell."""
        ranked = rank(self._record, self._objectives)
        bests = ranked[:1] if self._cell is None else best_of_cells(ranked, self._cell).values()
        return [trial.trial for trial in bests]


def rank(record: SweepRecord, objectives: Objectives) -> list[TrialRecord]:
    """Return the COMPLETED and STOPPED trials that keep the constraints, best first by the first objective.

    Of equal ones the smaller ONNX file is first.
    """
    metric, mode = objectives[0]
    sign = 1.0 if mode == "max" else -1.0
    feasible = [
        trial for trial in record.trials.values() if trial.state in ("COMPLETED", "STOPPED") and trial.is_feasible
    ]

    def place(trial: TrialRecord) -> tuple[float, float]:
        best = trial.best(metric, maximise=mode == "max")
        assert best is not None, "a trial without a report is FAILED"
        return -sign * best, trial.static.get("onnx_bytes", 0.0)

    return sorted(feasible, key=place)


def best_of_cells(ranked: Sequence[TrialRecord], cell: Callable[[Mapping[str, Any]], str]) -> dict[str, TrialRecord]:
    """Return the first trial of each cell, in the order of `ranked`."""
    bests: dict[str, TrialRecord] = {}
    for trial in ranked:
        bests.setdefault(cell(trial.params), trial)
    return bests
