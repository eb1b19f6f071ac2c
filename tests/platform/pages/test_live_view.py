"""The live view tells what a sweep does, on a terminal and without one."""

from __future__ import annotations

import io
import logging
import re
import time

import pytest
from rich.console import Console

from platform.pages.live_view import Budget, LiveView
from platform.sweeps.journal import Event, SweepRecord
from tests.platform.journals import finished_sweep

N_TRIALS = 12
EVENTS = finished_sweep(N_TRIALS)
BUDGET = Budget(trials=N_TRIALS, epochs=N_TRIALS * 27, wall_time_s=600, disk_bytes=2e9)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def view(console: Console, clock: Clock, budget: Budget = BUDGET, earlier_s: float = 0.0) -> LiveView:
    return LiveView("[red]quick[/red]", budget, "val/auroc", "max", lambda: 12_300_000, earlier_s, console, clock)


def run_without_terminal(events: list[Event] = EVENTS, step_s: float = 0.5) -> list[str]:
    """Return the lines that a sweep prints when an event comes every `step_s`."""
    console, clock, record = Console(file=io.StringIO(), width=400), Clock(), SweepRecord()
    with view(console, clock) as live:
        for event in events:
            clock.now_s += step_s
            record.apply(event)
            live.update(record)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().splitlines()


def test_without_a_terminal_each_trial_has_one_line_at_its_end() -> None:
    lines = [line for line in run_without_terminal() if re.match(r"t\d{4} ", line)]
    ends = [event for event in EVENTS if event.kind == "ended"]
    assert [line.split()[0] for line in lines] == [event.trial for event in ends]
    assert [re.split("[ :]", line)[1] for line in lines] == [event.body["state"] for event in ends]
    assert lines[6] == "t0006 FAILED: RuntimeError: <b>size</b> 12 vs 8"


def test_without_a_terminal_a_summary_comes_every_ten_seconds_and_at_the_end() -> None:
    step_s = 0.5
    lines = [line for line in run_without_terminal(step_s=step_s) if line.startswith("[red]quick[/red]")]
    assert len(lines) == int(len(EVENTS) * step_s / 10) + 1
    assert "trials 12 of 12" in lines[-1]
    n_stopped = sum(event.body.get("state") == "STOPPED" for event in EVENTS)
    n_epochs = sum(event.kind == "reported" for event in EVENTS)
    assert f"stopped {n_stopped}, failed 1, " in lines[-1]
    assert f"epochs {n_epochs} of at most 324" in lines[-1]
    assert "disk 12.3 MB of 2.0 GB" in lines[-1]


def test_the_incumbent_is_the_best_value_with_its_trial_and_epoch() -> None:
    value, trial, epoch = max(
        (event.body["metrics"]["val/auroc"], event.trial, event.body["epoch"])
        for event in EVENTS
        if event.kind == "reported" and event.trial != "t0006"
    )
    assert f"best val/auroc {value:.4f} ({trial}, epoch {epoch})" in run_without_terminal()[-1]


def test_the_time_left_follows_the_pace_and_never_passes_the_wall_time_budget() -> None:
    clock, record = Clock(), SweepRecord()
    live = view(Console(file=io.StringIO()), clock, Budget(N_TRIALS, 324, wall_time_s=1000), earlier_s=100)
    live.update(record)
    assert live.time_left_s() == 900
    ended = [index for index, event in enumerate(EVENTS) if event.kind == "ended"]
    for event in EVENTS[: ended[2] + 1]:
        record.apply(event)
    clock.now_s = 30.0
    live.update(record)
    assert live.time_left_s() == pytest.approx((N_TRIALS - 3) * 30 / 3)
    clock.now_s = 800.0
    assert live.time_left_s() == pytest.approx(100)


def test_without_a_wall_time_or_an_ended_trial_the_time_left_is_unknown() -> None:
    live = view(Console(file=io.StringIO()), Clock(), Budget(N_TRIALS, 324))
    assert live.time_left_s() is None


def test_trials_that_earlier_processes_ended_are_counted_but_not_told_again() -> None:
    console, clock, record = Console(file=io.StringIO(), width=400), Clock(), SweepRecord()
    for event in EVENTS:
        record.apply(event)
    with view(console, clock) as live:
        live.update(record)
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "trials 12 of 12" in file.getvalue()
    assert "t0001 " not in file.getvalue()


def test_on_a_terminal_the_table_shows_names_as_they_are_and_logs_come_above_it() -> None:
    console, clock, record = Console(file=io.StringIO(), width=100, force_terminal=True), Clock(), SweepRecord()
    logger = logging.getLogger("live-view-test")
    handler = logging.StreamHandler()  # holds today's standard error
    logger.addHandler(handler)
    stream = handler.stream
    with view(console, clock) as live:
        for event in EVENTS[:10]:
            clock.now_s += 1
            record.apply(event)
            live.update(record)
        logger.warning("a worker says something")
    logger.removeHandler(handler)
    assert handler.stream is stream
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "[red]quick[/red]" in file.getvalue()
    assert "a worker says something" in file.getvalue()


def test_an_update_costs_well_under_a_millisecond_on_average() -> None:
    events, record, clock = finished_sweep(300), SweepRecord(), Clock()
    live = view(Console(file=io.StringIO(), width=200), clock, Budget(300, 8100))
    begin_s = time.process_time()
    for event in events:
        clock.now_s += 0.05
        record.apply(event)
        live.update(record)
    assert (time.process_time() - begin_s) / len(events) < 1e-3
