"""The tracker: a thread of the driver that sends a sweep's journal on to MLflow.

Nothing in Tune's loop waits for MLflow. The thread follows the journal's file from a stored cursor; a
server that does not answer only delays it, and what is left at the end is sent by

    python -m platform.tracking runs/NAME
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from platform.mlflow_views.mirror import Mirror, Target
from platform.sweeps.journal import FILE_NAME, Event, SweepRecord

CURSOR_NAME, LOCK_NAME = "tracking_cursor.json", "tracking.lock"
POLL_S = 1.0  # between two looks at the journal: what came meanwhile goes out in one call a trial
MAX_BACK_OFF_S = 30.0
MAX_EVENTS_AT_ONCE = 2000  # the cursor moves on after each lot

MLFLOW_ENVIRONMENT = {
    # The tracker has its own back-off; MLflow's blocks a call to a dead server for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# OSError: artifacts, sockets and requests' exceptions; SQLAlchemyError: opening a database that is locked or corrupt.
UNREACHABLE = (MlflowException, OSError, SQLAlchemyError)


class JournalFollower:
    """Reads the journal in `folder` on from where it last stopped, and keeps the record of all it read."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self.offset = 0
        self.record = SweepRecord()

    def read(self, limit: int | None = None, until: int | None = None) -> list[Event]:
        """Return the next whole lines: at most `limit`, and none that starts at or after byte `until`."""
        events: list[Event] = []
        if not self._path.exists():
            return events
        with self._path.open("rb") as lines:
            lines.seek(self.offset)
            while (limit is None or len(events) < limit) and (until is None or self.offset < until):
                line = lines.readline()
                if not line.endswith(b"\n"):  # the end, or a line that is being written
                    break
                events.append(Event.from_line(line.decode()))
                self.offset += len(line)
        for event in events:
            self.record.apply(event)
        return events

    def forget_curves(self, events: Iterable[Event]) -> None:
        """Drop reports and parameters of trials that ended in `events`, which are sent: the driver has its own."""
        for event in events:
            if event.kind == "ended":
                trial = self.record.run(event.trial)
                trial.reports, trial.report_times_s, trial.params, trial.distributions = {}, {}, {}, {}


class Outbox:
    """What of a sweep's journal MLflow still has to hear: the target, the cursor, and the sending of it.

    Args:
        folder: the sweep's folder.
        target: where to; None goes on with the target of the folder's cursor.
    """

    def __init__(self, folder: Path, target: Target | None = None) -> None:
        self._folder = folder
        self._path = folder / CURSOR_NAME
        if target is None:
            if not self._path.exists():
                raise ValueError(f"{folder} has no {CURSOR_NAME}; name the folder of a sweep that was tracked")
            target = Target(**self._read()["target"])
        self._target = target
        self._offset = self._read_offset()
        self._journal = JournalFollower(folder)
        self._mirror: Mirror | None = None
        self._lock: IO[bytes] | None = None

    @property
    def uri(self) -> str:
        return self._target.resolved_uri

    def send(self) -> int:
        """Send everything up to the journal's end, and return how many events that was.

        Raises:
            UNREACHABLE: the rest is not sent; the cursor stands at what is.
            BlockingIOError: another process sends this journal (an OSError).
        """
        n_sent = 0
        try:
            self._acquire()
            while events := self._next():
                self._open_mirror().send(self._journal.record, events)
                self._offset = self._journal.offset
                self._save()
                self._journal.forget_curves(events)
                n_sent += len(events)
        except UNREACHABLE:
            self._mirror, self._journal = None, JournalFollower(self._folder)
            raise
        return n_sent

    def kill(self) -> None:
        """Mark the runs of a sweep whose process is gone as KILLED; `send` must have sent everything."""
        record = self._journal.record
        if record.sessions:
            self._open_mirror().kill(record, record.sessions[-1][1])

    def count_unsent(self) -> int:
        """Return how many events of the journal are not sent."""
        rest = JournalFollower(self._folder)
        rest.read(until=self._offset)
        return len(rest.read())

    def release(self) -> None:
        """Let another process send this journal."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _next(self) -> list[Event]:
        if self._journal.offset < self._offset:
            self._journal.read(until=self._offset)
        return self._journal.read(MAX_EVENTS_AT_ONCE)

    def _open_mirror(self) -> Mirror:
        if self._mirror is None:
            self._mirror = Mirror(self._target, self._folder, self._journal.record.sessions[0][0])
        return self._mirror

    def _acquire(self) -> None:
        if self._lock is None:
            lock = (self._folder / LOCK_NAME).open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                message = f"another process is sending {self._folder}; try again when it has ended"
                raise BlockingIOError(message) from error
            self._lock = lock
            self._offset = self._read_offset()
            self._save()

    def _read(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        return fields

    def _read_offset(self) -> int:
        """Return the stored cursor; another place than the stored one has to hear the journal from its start."""
        if not self._path.exists():
            return 0
        stored, target = self._read(), self._target.to_fields()
        same_place = all(stored["target"][key] == target[key] for key in ("uri", "experiment", "sweep"))
        return int(stored["offset"]) if same_place else 0

    def _save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps({"offset": self._offset, "target": self._target.to_fields()}), encoding="utf-8")
        fresh.replace(self._path)


class Tracker:
    """Mirrors a running sweep into MLflow from a thread of its own.

    Args:
        folder: the sweep's folder, with the journal.
        uri: MLflow's tracking URI; a relative `sqlite:///` path counts from the project's root.
        experiment: the experiment's name; made where it is missing.
        tags: tags of every run.
        parent_params: parameters of the sweep's own run, flat dotted keys.
        sweep_name: the name of the sweep's own run; tag `sweep` of every run.
        chain: of a stage: `platform.mlflow_views.mirror.Target.chain`.
    """

    def __init__(
        self,
        folder: Path,
        uri: str,
        experiment: str,
        tags: Mapping[str, str],
        parent_params: Mapping[str, str],
        sweep_name: str,
        chain: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        prepare_mlflow()
        self._outbox = Outbox(folder, Target(uri, experiment, sweep_name, tags, parent_params, chain))
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self.error = ""  # why the last attempt failed; empty when it did not
        self._thread = threading.Thread(target=self._follow, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 30.0) -> int:
        """Wait until everything in the journal is sent, at most `timeout_s`; return the number of unsent events."""
        self._closing.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        return self._outbox.count_unsent()

    def _follow(self) -> None:
        wait_s = POLL_S
        while not self._abandoned.is_set():
            closing = self._closing.is_set()  # looked at before the journal is read: nothing is missed
            sent = self._try_to_send()
            if closing and sent:
                break
            wait_s = POLL_S if sent or closing else min(2 * wait_s, MAX_BACK_OFF_S)
            (self._abandoned if closing else self._closing).wait(wait_s)
        self._outbox.release()

    def _try_to_send(self) -> bool:
        try:
            self._outbox.send()
        except UNREACHABLE as error:
            self.error = str(error).strip().splitlines()[0]
            return False
        self.error = ""
        return True


def prepare_mlflow() -> None:
    """Set what MLflow's client reads from the environment; before its first call."""
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # it tells of every new table


def main(arguments: list[str] | None = None) -> int:
    """Send what a sweep left unsent; its process must have ended."""
    parser = argparse.ArgumentParser(prog="python -m platform.tracking", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="the sweep's folder, runs/NAME")
    folder: Path = parser.parse_args(arguments).folder
    prepare_mlflow()
    try:
        outbox = Outbox(folder)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        n_sent = outbox.send()
        outbox.kill()
    except UNREACHABLE as error:
        print(f"error: {outbox.count_unsent()} events are not sent to {outbox.uri}: {error}", file=sys.stderr)
        return 1
    finally:
        outbox.release()
    print(f"sent {n_sent} events of {folder} to {outbox.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
