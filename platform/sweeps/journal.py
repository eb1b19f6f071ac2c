"""The journal of a sweep: an append-only file of events, one JSON object a line, and the only source of truth.

Optuna's study, ASHA's rungs, the MLflow runs and the report are all views that are rebuilt from it.
A line is flushed as it is written, before any view hears of the event; a kill can only tear the last
line, which readers drop and the next writer cuts off.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainables.degeneracy import eligible_epochs, is_degenerate_report

FILE_NAME = "journal.jsonl"

EventKind = Literal[
    "opened",  # a process took up the sweep; first line: the sweep's identity
    "proposed",  # the sampler proposed a configuration, which became a trial
    "repeat",  # a trial's configuration is to be trained again with another seed (`of`: that trial)
    "infeasible",  # a proposal that breaks a constraint known before training; never became a trial
    "started",  # a trial's training began or went on (`attempt` counts from 1)
    "lost",  # a trial's process or node died (`error`); the trial goes on from its last checkpoint
    "reported",  # a trial's metrics after an epoch, its checkpoint saved
    "ended",  # a trial ended, once: COMPLETED, FAILED, or STOPPED with a `reason`: scheduler, budget or target
    "avoided",  # values that `search.avoid` was told to keep away from, beside those that failed here
    "measured",  # what was measured of a trial's model after the search, and by how much that breaks constraints
    "tested",  # a look at a test fold: `metrics` of the best trial, or `ensemble`, `finding` or `evaluated`
    "stage",  # of a chain: a stage (`stage`) started or ended (`state`), with what it was given or has left
    "closed",  # the sweep's process ended in order: `reason` is done, target (`stop_when` was met) or interrupted
]

TrialState = Literal["PROPOSED", "RUNNING", "COMPLETED", "STOPPED", "FAILED"]
ENDED: tuple[TrialState, ...] = ("COMPLETED", "STOPPED", "FAILED")


@dataclass(frozen=True)
class Event:
    """One line of the journal. `trial` is our own id (`t0007`), empty for events of the whole sweep."""

    kind: EventKind
    time_s: float  # seconds since 1970
    trial: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)

    def to_line(self) -> str:
        head: dict[str, Any] = {"event": self.kind, "time_s": self.time_s}
        if self.trial:
            head["trial"] = self.trial
        return json.dumps({**head, **self.body}, allow_nan=False, separators=(",", ":")) + "\n"

    @staticmethod
    def from_line(line: str) -> Event:
        fields = json.loads(line, object_pairs_hook=_with_shared_keys)
        return Event(fields.pop("event"), fields.pop("time_s"), fields.pop("trial", ""), fields)


def _with_shared_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys are those of all lines: a long journal has few names, many times."""
    return {sys.intern(key): value for key, value in pairs}


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""What the system says of a disk that takes no more."""


class JournalLost(BaseException):
    """An event can't be written, so nothing may go on. No `Exception`: Tune takes every one of those for a trial's."""


def is_of_the_disk(error: BaseException) -> bool:
    """Tell whether an error says that the disk takes no more, rather than that something is wrong here."""
    return isinstance(error, JournalLost) or (isinstance(error, OSError) and error.errno in DISK_ERRORS)


class Journal:
    """The one writer of a sweep's journal. Opening cuts off a torn last line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        _cut_torn_line(self.path)
        self._file = self.path.open("ab", buffering=0)

    def append(self, kind: EventKind, trial: str = "", **body: Any) -> Event:
        """Write one event, stamped with the current time; a later reader sees it whole.

        Raises:
            JournalLost: the disk does not take it; the journal is as it was before.
        """
        event = Event(kind, time.time(), trial, body)
        line, n_before = event.to_line().encode(), os.fstat(self._file.fileno()).st_size
        try:
            fault = "" if self._file.write(line) == len(line) else os.strerror(errno.ENOSPC)
        except OSError as error:
            fault = str(error.strerror)
        if fault:
            self._file.truncate(n_before)  # the disk may have taken a part of the line
            raise JournalLost(f"{self.path} can't be written ({fault})")
        return event

    def close(self) -> None:
        """Flush to the disk, and close; closing twice does no harm."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def read_events(folder: Path) -> Iterator[Event]:
    """Yield the whole lines of the journal in `folder`; a torn last line is left out."""
    path = folder / FILE_NAME
    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith("\n"):
                return
            try:
                yield Event.from_line(line)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{path}:{number}: not a journal line: {line[:80]!r}") from error


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)


@dataclass
class TrialRecord:
    """What the journal says of one trial, or of one repeat of a trial with another seed."""

    trial: str
    number: int
    params: dict[str, Any]  # the resolved configuration, flat dotted keys
    sampled: dict[str, Any]  # the part of it that the sampler chose
    distributions: dict[str, str]  # Optuna's JSON for each sampled parameter
    static: dict[str, float]  # quantities known before training: onnx_bytes and others
    system_attrs: dict[str, Any]
    proposed_s: float
    state: TrialState = "PROPOSED"
    attempts: int = 0
    losses: int = 0  # how often its process died
    started_s: float | None = None
    ended_s: float | None = None
    spans: list[tuple[float, float]] = field(default_factory=list)  # (start, last event) of each attempt
    reports: dict[int, dict[str, float]] = field(default_factory=dict)  # epoch -> metrics
    report_times_s: dict[int, float] = field(default_factory=dict)
    constraints: dict[str, float] = field(default_factory=dict)  # rule -> excess, feasible where <= 0
    error: str = ""  # the traceback of a FAILED trial
    stopped_by: str = ""  # what ended a STOPPED trial: scheduler, budget or target
    measured: dict[str, float] = field(default_factory=dict)  # after the search
    measured_constraints: dict[str, float] = field(default_factory=dict)  # as `constraints`, on what was measured
    repeat_of: str = ""  # a repeat: of which trial
    seed: int | None = None  # a repeat's own

    @property
    def is_feasible(self) -> bool:
        """Whether it keeps every constraint that is known of it, and has learnt something."""
        kept = all(excess <= 0 for excess in (*self.constraints.values(), *self.measured_constraints.values()))
        return kept and not self.is_degenerate

    @property
    def is_degenerate(self) -> bool:
        """Whether every epoch left a degenerate classifier."""
        return bool(self.reports) and all(map(is_degenerate_report, self.reports.values()))

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return max(self.reports, default=0)

    @property
    def last(self) -> dict[str, float]:
        """The metrics of the last report; it carries `best/<metric>` and `best_epoch` too."""
        return self.reports[self.epochs] if self.reports else {}

    def best(self, metric: str, maximise: bool) -> float | None:
        """The best value of `metric` over the trial's epochs, or None if it never reported it."""
        eligible = [self.reports[epoch] for epoch in eligible_epochs(self.reports)]
        values = [report[metric] for report in eligible if metric in report]
        return (max(values) if maximise else min(values)) if values else None

    @property
    def duration_s(self) -> float | None:
        """The time that its attempts took together; None while it has not ended."""
        return None if self.ended_s is None else sum(last - start for start, last in self.spans)

    def take_report(self, epoch: int, metrics: dict[str, float], time_s: float) -> None:
        """Add a report; one of an epoch that was reported before comes from a trial that lost its checkpoint.

        What such a trial reported from there on is void: the weights that it speaks of are gone.
        """
        for void in [known for known in self.reports if known >= epoch]:
            del self.reports[void], self.report_times_s[void]
        self.reports[epoch] = metrics
        self.report_times_s[epoch] = time_s
        self.heard(time_s)

    def heard(self, time_s: float) -> None:
        """Stretch the current attempt up to an event of the trial."""
        if self.spans:
            self.spans[-1] = (self.spans[-1][0], time_s)


@dataclass
class SweepRecord:
    """The journal read whole: the sweep's identity, its trials in order of proposal, and its looks at test."""

    opened: list[Event] = field(default_factory=list)
    trials: dict[str, TrialRecord] = field(default_factory=dict)
    repeats: dict[str, TrialRecord] = field(default_factory=dict)  # no part of the search: they are not ranked
    infeasible: list[Event] = field(default_factory=list)
    avoided: list[Event] = field(default_factory=list)
    tested: list[Event] = field(default_factory=list)
    stages: list[Event] = field(default_factory=list)  # of a chain
    closed: list[Event] = field(default_factory=list)
    sessions: list[tuple[float, float]] = field(default_factory=list)  # (opened, last event) of each process

    epochs: int = 0  # trained in all trials of the search together, those trained twice included

    def run(self, name: str) -> TrialRecord:
        """Return the trial or the repeat of that id."""
        return self.trials[name] if name in self.trials else self.repeats[name]

    def repeats_of(self, trial: str) -> list[TrialRecord]:
        """Return the repeats of a trial in order of their numbers."""
        return sorted((each for each in self.repeats.values() if each.repeat_of == trial), key=lambda each: each.number)

    def elapsed_s(self, now_s: float) -> float:
        """Return the time that processes have spent on the sweep, if the last of them still runs at `now_s`."""
        earlier = sum(end - start for start, end in self.sessions[:-1])
        return earlier + (now_s - self.sessions[-1][0] if self.sessions else 0.0)

    @property
    def n_proposals(self) -> int:
        """Every proposal of the sampler, those that were infeasible included."""
        return len(self.trials) + len(self.infeasible)

    def apply(self, event: Event) -> None:
        """Take one event into account; the order of events is the order of the journal."""
        body = event.body
        if event.kind == "opened" or not self.sessions:
            self.sessions.append((event.time_s, event.time_s))
        if "evaluated" not in body:  # a look by `platform.evaluate`, maybe days later, is no part of a process's time
            self.sessions[-1] = (self.sessions[-1][0], event.time_s)
        if event.kind == "proposed":
            self.trials[event.trial] = TrialRecord(
                trial=event.trial,
                number=body["number"],
                params=body["params"],
                sampled=body["sampled"],
                distributions=body["distributions"],
                static=body.get("static", {}),
                system_attrs=body.get("system_attrs", {}),
                proposed_s=event.time_s,
            )
        elif event.kind == "repeat":
            self.repeats[event.trial] = TrialRecord(
                trial=event.trial,
                number=body["number"],
                params=body["params"],
                sampled={},
                distributions={},
                static=body["static"],
                system_attrs={},
                proposed_s=event.time_s,
                repeat_of=body["of"],
                seed=body["seed"],
            )
        elif event.kind == "started":
            trial = self.run(event.trial)
            trial.state, trial.attempts = "RUNNING", body["attempt"]
            trial.started_s = trial.started_s or event.time_s
            trial.spans.append((event.time_s, event.time_s))
        elif event.kind == "lost":
            self.run(event.trial).losses += 1
        elif event.kind == "reported":
            self.epochs += event.trial in self.trials
            self.run(event.trial).take_report(body["epoch"], body["metrics"], event.time_s)
        elif event.kind == "ended":
            trial = self.run(event.trial)
            trial.state, trial.ended_s = body["state"], event.time_s
            trial.constraints, trial.error = body.get("constraints", {}), body.get("error", "")
            trial.stopped_by = body.get("reason", "")
            trial.heard(event.time_s)
        elif event.kind == "measured":
            trial = self.trials[event.trial]
            trial.measured |= body["quantities"]
            trial.measured_constraints |= body["constraints"]
        else:
            self._kept_whole(event.kind).append(event)

    def _kept_whole(self, kind: EventKind) -> list[Event]:
        return {
            "opened": self.opened,
            "infeasible": self.infeasible,
            "avoided": self.avoided,
            "tested": self.tested,
            "stage": self.stages,
            "closed": self.closed,
        }[kind]

    @property
    def is_done(self) -> bool:
        """Whether the last process has brought the sweep to its end."""
        if not self.closed:
            return False
        last = self.closed[-1]
        return last.body["reason"] in ("done", "target") and last.time_s >= self.opened[-1].time_s


def replay(events: Iterable[Event]) -> SweepRecord:
    """Read events, in order, into a `SweepRecord`."""
    record = SweepRecord()
    for event in events:
        record.apply(event)
    return record
