from __future__ import annotations

import json
import math
import resource
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platform.sweeps.journal import FILE_NAME, Event, Journal, JournalLost, read_events, replay
from tests.platform.journals import finished_sweep, write_journal

EVENTS = finished_sweep(6)
CONTENT = "".join(event.to_line() for event in EVENTS).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
KEYS = st.text(min_size=1).filter(lambda key: key not in ("event", "time_s", "trial"))


@given(body=st.dictionaries(KEYS, JSON, max_size=4), trial=st.sampled_from(["", "t0007"]), time_s=st.floats(0, 2e9))
def test_an_event_survives_its_line(body: dict[str, object], trial: str, time_s: float) -> None:
    line = Event("reported", time_s, trial, body).to_line()
    assert Event.from_line(line) == Event("reported", time_s, trial, body)
    assert line.count("\n") == 1 and line.isascii()  # a cut can never split a character


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, len(CONTENT)))
def test_any_cut_of_the_bytes_reads_as_a_prefix(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / FILE_NAME).write_bytes(CONTENT[:cut])
    events = list(read_events(folder))
    assert events == EVENTS[: len(events)]
    assert len(events) == CONTENT[:cut].count(b"\n")
    replay(events)


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_opening_cuts_off_a_torn_last_line_and_writing_goes_on_after_it(tmp_path: Path, cut: int) -> None:
    (tmp_path / FILE_NAME).write_bytes(CONTENT[: len(CONTENT) - cut])
    journal = Journal(tmp_path)
    event = journal.append("closed", reason="done")
    journal.close()
    events = list(read_events(tmp_path))
    assert events == [*(EVENTS if cut == 0 else EVENTS[:-1]), event]


def test_an_event_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("opened", resumed=False)
    event = journal.append("started", "t0000", attempt=1)
    assert list(read_events(tmp_path))[-1] == event
    assert abs(event.time_s - time.time()) < 60


def test_a_folder_without_a_journal_has_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path)) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_refused_and_writes_nothing(tmp_path: Path, value: float) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append("reported", "t0000", epoch=1, metrics={"val/auroc": value})
    journal.close()
    assert list(read_events(tmp_path)) == []


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    lines = CONTENT.splitlines(keepends=True)
    (tmp_path / FILE_NAME).write_bytes(lines[0] + b"{broken\n" + lines[1])
    with pytest.raises(ValueError, match=r"journal\.jsonl:2: not a journal line: '\{broken"):
        list(read_events(tmp_path))


def test_two_replays_are_equal_and_one_event_at_a_time_gives_the_same(tmp_path: Path) -> None:
    write_journal(tmp_path, EVENTS)
    whole, again = replay(read_events(tmp_path)), replay(EVENTS)
    stepwise = replay([])
    for event in EVENTS:
        stepwise.apply(event)
    assert whole == again == stepwise
    assert len(whole.trials) == whole.n_proposals == 6


def test_the_names_in_a_long_journal_are_in_memory_once() -> None:
    line = Event("reported", 0.0, "t0000", {"epoch": 1, "metrics": {"val/" + "auroc": 0.5}}).to_line()
    (first,), (second,) = (Event.from_line(line).body["metrics"] for _ in range(2))
    assert first is second


def test_a_line_is_plain_json_that_other_programs_read(tmp_path: Path) -> None:
    line = Event("ended", 1.5, "t0001", {"state": "FAILED", "error": "line one\nline two"}).to_line()
    assert json.loads(line) == {
        "event": "ended", "time_s": 1.5, "trial": "t0001", "state": "FAILED", "error": "line one\nline two",
    }  # fmt: skip


# ------------------------------------------------------------------ what a replay says


def proposed(trial: str, number: int, time_s: float) -> Event:
    body = {"number": number, "params": {}, "sampled": {}, "distributions": {}}
    return Event("proposed", time_s, trial, body)


def reported(trial: str, epoch: int, time_s: float, auroc: float = 0.5) -> Event:
    return Event("reported", time_s, trial, {"epoch": epoch, "metrics": {"val/auroc": auroc}})


RESUMED = [
    Event("opened", 100, body={"resumed": False}),
    proposed("t0000", 0, 101),
    Event("started", 102, "t0000", {"attempt": 1}),
    reported("t0000", 1, 105, 0.6),
    reported("t0000", 2, 109, 0.8),
    Event("opened", 500, body={"resumed": True}),
    Event("started", 510, "t0000", {"attempt": 2}),
    reported("t0000", 3, 514, 0.7),
    Event("ended", 515, "t0000", {"state": "COMPLETED"}),
]


def test_the_time_between_sessions_belongs_to_nobody() -> None:
    assert replay(RESUMED).elapsed_s(now_s=520) == (109 - 100) + (520 - 500)
    assert replay([]).elapsed_s(now_s=520) == 0


def test_a_trials_duration_is_that_of_its_attempts() -> None:
    trial = replay(RESUMED).trials["t0000"]
    assert trial.duration_s == (109 - 102) + (515 - 510)
    assert (trial.attempts, trial.started_s, trial.state) == (2, 102, "COMPLETED")
    assert replay(RESUMED[:-1]).trials["t0000"].duration_s is None


def test_best_and_last_are_of_the_trials_own_reports() -> None:
    trial = replay(RESUMED).trials["t0000"]
    assert trial.best("val/auroc", maximise=True) == 0.8
    assert trial.best("val/auroc", maximise=False) == 0.6
    assert trial.best("val/loss", maximise=True) is None
    assert trial.last == {"val/auroc": 0.7}


def test_a_repeated_epoch_voids_what_was_reported_from_there_on() -> None:
    """The weights of the better second epoch are gone: the trial must not be chosen for it."""
    again = [Event("started", 520, "t0000", {"attempt": 3}), reported("t0000", 1, 521, 0.61)]
    record = replay([*RESUMED[:-1], *again])
    trial = record.trials["t0000"]
    assert trial.reports == {1: {"val/auroc": 0.61}}
    assert trial.report_times_s == {1: 521}
    assert (trial.epochs, record.epochs) == (1, 4)


def test_infeasible_proposals_are_proposals_but_no_trials() -> None:
    record = replay([*RESUMED, Event("infeasible", 516, "", {"number": 1})])
    assert (record.n_proposals, len(record.trials)) == (2, 1)


def test_a_disk_that_takes_half_a_line_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append("opened", name="x")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(JournalLost, match=r"journal\.jsonl can't be written"):
            journal.append("ended", "t0000", state="COMPLETED")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [event.kind for event in read_events(tmp_path)] == ["opened"]
    journal.append("ended", "t0000", state="COMPLETED")
    journal.close()
    journal.close()
    assert [event.kind for event in read_events(tmp_path)] == ["opened", "ended"]
