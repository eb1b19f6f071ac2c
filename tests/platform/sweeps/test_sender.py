"""A sweep's folder in a bucket: nodes come and go, and what one has sent another goes on with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data.bucket import COPIES, folders, path_of, read, send, sizes
from platform.sweeps import sender
from platform.sweeps.folder import locked, new_folder, newest_folder
from platform.sweeps.journal import FILE_NAME, Journal, read_events
from platform.sweeps.sender import GIVEN_UP_S, HOLDER_NAME, NotSent, bring, bring_journals, sent

Node = Callable[[str], Path]
PROPOSED = {"number": 0, "params": {}, "sampled": {}, "distributions": {}}


@pytest.fixture
def node(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return what makes this process a node of that name, and returns its `runs`."""

    def become(name: str) -> Path:
        monkeypatch.setenv(COPIES, str(tmp_path / name))
        monkeypatch.setattr(sender.socket, "gethostname", lambda: name)
        return path_of(f"s3://{bucket}/runs")

    return become


def begin(runs: Path, *trials: str) -> Path:
    """Begin a sweep whose journal names these trials, each of which has a file, and return its folder."""
    folder = new_folder(runs, "tiny")
    journal = Journal(folder)
    journal.append("opened", overrides=(), spec={}, fingerprint="", code="")
    for trial in trials:
        journal.append("proposed", trial, **PROPOSED)
        leave_checkpoint(folder, trial)
    journal.close()
    return folder


def leave_checkpoint(folder: Path, trial: str) -> None:
    (folder / "trials" / trial).mkdir(parents=True)
    (folder / "trials" / trial / "last.ckpt").write_text(trial)
    send(folder / "trials" / trial)


def test_another_node_finds_a_sweep_and_brings_it_without_its_trials(node: Node) -> None:
    folder = begin(node("first"), "t0000")
    with sent(folder):
        (folder / "report.html").write_text("a report")
    runs = node("second")
    bring_journals(runs, "tiny")
    found = newest_folder(runs, "tiny")
    assert [path.name for path in found.iterdir()] == [FILE_NAME]
    assert new_folder(runs, "tiny").name == "tiny-002", "a number that the bucket has is taken"
    (found / FILE_NAME).unlink()
    bring(found)
    assert sorted(path.name for path in found.iterdir()) == [FILE_NAME, "lock", "report.html"]


def test_the_journal_that_goes_further_is_gone_on_with(node: Node) -> None:
    folder = begin(node("first"), "t0000")
    send(folder / FILE_NAME)
    journal = Journal(folder)
    journal.append("closed", reason="interrupted", metrics={})
    journal.close()
    bring(folder)
    assert len(list(read_events(folder))) == 3, "this node's, which was killed before it could send"
    send(folder / FILE_NAME)
    runs = node("second")
    bring(runs / "tiny-001")
    assert len(list(read_events(runs / "tiny-001"))) == 3


def test_a_sweep_that_went_on_elsewhere_is_not_mixed_with_what_is_here(node: Node) -> None:
    folder = begin(node("first"), "t0000")
    send(folder / FILE_NAME)
    elsewhere = node("second") / folder.name
    bring(elsewhere)
    Journal(elsewhere).append("closed", reason="interrupted", metrics={})
    send(elsewhere / FILE_NAME)
    node("first")
    Journal(folder).append("closed", reason="done", metrics={})
    with pytest.raises(ValueError, match=r"went different ways; remove .*tiny-001 to go on from the bucket's"):
        bring(folder)


def test_trials_that_the_journal_does_not_know_are_forgotten(node: Node) -> None:
    folder = begin(node("first"), "t0000")
    send(folder / FILE_NAME)
    leave_checkpoint(folder, "t0001")
    runs = node("second")
    bring(runs / folder.name)
    assert folders(runs / folder.name / "trials") == ["t0000"]


def test_a_running_sweep_is_not_brought_over_itself(node: Node) -> None:
    folder = begin(node("first"))
    with locked(folder), pytest.raises(ValueError, match="another process runs this sweep"):
        bring(folder)


def test_what_changes_is_sent_as_the_sweep_goes_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SEND_S", 0.05)
    folder = begin(node("first"))
    with sent(folder):
        Journal(folder).append("closed", reason="interrupted", metrics={})
        whole = (folder / FILE_NAME).read_bytes()
        deadline_s = time.monotonic() + 20
        while read(folder / FILE_NAME) != whole and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert read(folder / FILE_NAME) == whole
        assert json.loads(read(folder / HOLDER_NAME))["host"] == "first"
    assert [path.name for path in sizes(folder)] == [FILE_NAME], "the holder has let it go"


def test_a_sweep_that_another_node_holds_is_refused_until_that_is_silent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begin(node("first"))
    holds = sent(folder)
    holds.__enter__()
    runs = node("second")
    with (
        pytest.raises(ValueError, match=r"process \d+ on first runs this sweep; stop it, or wait 120 s"),
        sent(runs / folder.name),
    ):
        pass
    now_s = time.time()
    monkeypatch.setattr(sender.time, "time", lambda: now_s + GIVEN_UP_S + 1)
    (runs / folder.name).mkdir(parents=True)
    with sent(runs / folder.name):
        pass
    node("first")
    holds.__exit__(None, None, None)


def test_results_that_do_not_reach_the_bucket_are_told_of(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begin(node("first"))

    def fail(path: Path) -> None:
        raise OSError("no way there")

    with (
        pytest.raises(NotSent, match=r"is not whole in s3://.* \(no way there\); resume the sweep to send it"),
        sent(folder),
    ):
        monkeypatch.setattr(sender, "send", fail)


def test_a_sweep_on_a_shared_folder_is_sent_nowhere(tmp_path: Path) -> None:
    folder = begin(tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    with sent(folder):
        bring(folder)
    assert sorted(path.name for path in folder.iterdir()) == before
