"""The lives of a sweep's trials as Ray Tune's loop tells of them: what a search and its repeats have in common."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from platform.specs.spec import Spec
from platform.sweeps.journal import ENDED, Event, EventKind, Journal, SweepRecord
from trainables.decisions import Verdict

METRICS_PREFIX = "metrics/"  # Tune flattens {"metrics": {"val/auroc": ...}} so


class TrialLives(ABC):
    """Hands out trials, takes what they send, and writes it down. Not safe for threads: Tune's loop is its only caller.

    Args:
        record: what the journal held when it was opened; brought up to date with every event.
        post: tells a trial the verdict on its report.
        observers: called with every event after it is in the journal.
    """

    def __init__(
        self,
        spec: Spec,
        journal: Journal,
        record: SweepRecord,
        post: Callable[[str, int, Verdict], None],
        observers: Sequence[Callable[[Event], None]],
    ) -> None:
        self.spec, self.record = spec, record
        self._journal, self._post, self._observers = journal, post, observers
        self._running: dict[str, float] = {}  # trial -> since when its next report is awaited
        self._has_reported: set[str] = set()  # of the running ones: since they have this process
        self._interrupted = False
        self.unsaved = ""  # why a checkpoint could not be written, which interrupts the sweep

    @abstractmethod
    def propose(self) -> dict[str, Any] | None:
        """Return the next trial's task (`trainables.tune_trial.TrialTask`), or None where there is no further."""

    @abstractmethod
    def _on_report(self, trial: str, epoch: int, metrics: dict[str, float]) -> None:
        """Write down a report, and post the verdict on it."""

    @abstractmethod
    def _end(self, trial: str, state: str, error: str = "") -> None:
        """Write down a trial's end."""

    @abstractmethod
    def _go_on_later(self, trial: str) -> None:
        """Hand the trial out once more."""

    def on_start(self, trial: str) -> None:
        """Tune has a process for the trial."""
        self._running[trial] = time.monotonic()
        self._has_reported.discard(trial)
        self._write("started", trial, attempt=self.record.run(trial).attempts + 1)

    def on_message(self, trial: str, message: Mapping[str, Any]) -> None:
        """Take what the trial sent: a report after an epoch, or how it ended."""
        if self._has_ended(trial):
            return  # it was on its way while the trial was ended as overdue
        if "outcome" in message:
            self._on_outcome(trial, message["outcome"], message["error"])
        elif "epoch" in message:
            prefix = len(METRICS_PREFIX)
            metrics = {sys.intern(key[prefix:]): v for key, v in message.items() if key.startswith(METRICS_PREFIX)}
            self._running[trial] = time.monotonic()
            self._has_reported.add(trial)
            self._on_report(trial, int(message["epoch"]), metrics)

    def _on_outcome(self, trial: str, outcome: str, error: str) -> None:
        if outcome == "UNSAVED":
            self.unsaved = error
            self.interrupt()
        elif outcome != "INTERRUPTED":  # an interrupted trial has not ended: a resume goes on with it
            self._end(trial, outcome, error)
        self._running.pop(trial, None)

    def on_gone(self, trial: str, error: str | None) -> None:
        """Tune has no process for the trial any more. Where the trial did not say how it ended, it was lost or failed.

        Args:
            error: how its process or its node died, or could not start. Whatever a method raises is an outcome, so this
                is the machine's fault, and the trial goes on from its last checkpoint, up to `resources.retries` times.
        """
        self._running.pop(trial, None)
        if self._has_ended(trial) or self._interrupted:
            return
        if error is not None and self.record.run(trial).losses < self.spec.resources.retries:
            self._write("lost", trial, error=error)
            self._go_on_later(trial)
            return
        self._end(trial, "FAILED", error or "the trial's process ended without an outcome")

    def is_overdue(self, trial: str) -> bool:
        """Whether a running trial has not sent its next report in time; if so it has ended as FAILED."""
        key = "report_timeout_s" if trial in self._has_reported else "first_report_timeout_s"
        limit_s = getattr(self.spec.resources, key)
        since_s = self._running.get(trial)
        if since_s is None or time.monotonic() - since_s < limit_s:
            return False
        self._end(trial, "FAILED", f"no report within resources.{key} = {limit_s:g} s")
        self._running.pop(trial)
        return True

    @property
    def running(self) -> list[str]:
        """The trials that have a process now."""
        return list(self._running)

    def interrupt(self) -> None:
        """Propose nothing more, and let every running trial end at its next report, to be resumed later."""
        self._interrupted = True

    @property
    def interrupted(self) -> bool:
        return self._interrupted

    def _has_ended(self, trial: str) -> bool:
        return self.record.run(trial).state in ENDED

    def _write(self, kind: EventKind, trial: str = "", **body: Any) -> None:
        event = self._journal.append(kind, trial, **body)
        self.record.apply(event)
        for observer in self._observers:
            observer(event)
