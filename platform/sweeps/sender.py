"""A sweep's folder in a bucket: brought before the sweep goes on, and sent as it changes.

The process that runs the sweep works in its copy of the folder; trials send their own checkpoints. So what a node that
dies takes along is at most `SEND_S` of the journal, and the trials' work of that time is done again.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from data.bucket import fetch, folders, read, remove, send, sizes, uri_of
from data.repeating import repeating
from platform.models.trained_model import TRIALS_FOLDER
from platform.sweeps.folder import locked
from platform.sweeps.journal import FILE_NAME as JOURNAL_NAME
from platform.sweeps.journal import read_events, replay

HOLDER_NAME: Final = "holder.json"
SEND_S: Final = 20.0
GIVEN_UP_S: Final = 6 * SEND_S  # a holder that was silent for so long is dead
HERE_ALONE: Final = (TRIALS_FOLDER, "lock")


class NotSent(OSError):  # noqa: N818  (named for what it reports)
    """The results are here, and not all of them are in the bucket."""


def bring_journals(runs: Path, name: str) -> None:
    """Make known here which sweeps of the spec called `name` the bucket has."""
    for each in folders(runs):
        folder = runs / each
        folder.mkdir(parents=True, exist_ok=True)  # its number is taken
        if each.startswith(f"{name}-") and not (folder / JOURNAL_NAME).exists():
            fetch(folder / JOURNAL_NAME)


def bring(folder: Path) -> None:
    """Bring a sweep's folder from its bucket, unless the journal here goes further: its process was killed.

    Raises:
        ValueError: a process of this node runs the sweep, or it went on elsewhere from an earlier point than here.
    """
    if not uri_of(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)  # this machine may be new to the sweep
    with locked(folder):
        journal = folder / JOURNAL_NAME
        here = _whole_lines(journal.read_bytes()) if journal.exists() else b""
        there = _whole_lines(read(journal))
        if here.startswith(there):
            return
        if not there.startswith(here):
            raise ValueError(
                f"{journal} and the one in {uri_of(folder)} went different ways; remove {folder} to go on from the "
                "bucket's"
            )
        for path in _top(folder):
            fetch(path)
        _forget_unknown_trials(folder)


def _top(folder: Path) -> set[Path]:
    """Return what lies in the folder in the bucket, but what is of one process or of trials."""
    names = {path.relative_to(folder).parts[0] for path in sizes(folder)}
    return {folder / name for name in names - {*HERE_ALONE, HOLDER_NAME}}


def _forget_unknown_trials(folder: Path) -> None:
    """Remove what trials have left that began after the journal was sent last: their names will be given anew."""
    record = replay(read_events(folder))
    for name in set(folders(folder / TRIALS_FOLDER)) - record.trials.keys() - record.repeats.keys():
        remove(folder / TRIALS_FOLDER / name)


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


@contextmanager
def sent(folder: Path) -> Iterator[None]:
    """Send what changes in a sweep's folder, now and then and at the end; for other paths, do nothing.

    Raises:
        ValueError: a process on another node holds the sweep.
        OSError: the bucket takes nothing.
        NotSent: at the end, the bucket did not take everything.
    """
    if not uri_of(folder):
        yield
        return
    _check_holder(folder)
    _send(folder)  # a bucket that takes nothing is found before a trial runs
    try:
        with repeating(partial(_try_to_send, folder), SEND_S, "bucket"):
            yield
    finally:
        _send_all(folder)


def _try_to_send(folder: Path) -> None:
    try:
        _send(folder)
    except OSError as error:  # the next turn, or the last one, sends it
        print(f"{uri_of(folder)} is behind: {error}", file=sys.stderr)


def _send(folder: Path) -> None:
    _write_holder(folder)
    for path in folder.iterdir():
        if path.name not in HERE_ALONE and not path.name.startswith("."):
            send(path)


def _send_all(folder: Path) -> None:
    try:
        _send(folder)
        remove(folder / HOLDER_NAME)
    except OSError as error:
        raise NotSent(f"{folder} is not whole in {uri_of(folder)} ({error}); resume the sweep to send it") from error


def _write_holder(folder: Path) -> None:
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "time_s": time.time()}
    (folder / HOLDER_NAME).write_text(json.dumps(holder) + "\n", encoding="utf-8")


def _check_holder(folder: Path) -> None:
    """Refuse a sweep that a process on another node holds; on this one the lock has told already."""
    text = read(folder / HOLDER_NAME)
    holder: dict[str, Any] = json.loads(text) if text else {}
    elsewhere = holder.get("host", socket.gethostname()) != socket.gethostname()
    if elsewhere and time.time() - holder["time_s"] < GIVEN_UP_S:
        raise ValueError(
            f"{uri_of(folder)}: process {holder['pid']} on {holder['host']} runs this sweep; stop it, or wait "
            f"{GIVEN_UP_S:.0f} s after its death"
        )
