"""The folder of a sweep: `runs/<name>-001/`, its lock, and whether a resume finds what the sweep began with."""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.bucket import sizes
from platform.project import ROOT
from platform.sweeps.journal import FILE_NAME as JOURNAL_NAME
from platform.sweeps.journal import read_events

RESULT_FOLDER = "result"  # what the method itself makes of a finished sweep
SCORES_FOLDER = "results"  # `xx-yy/` with the best model so far, of methods that keep one
PACKAGES = ("ray", "torch", "optuna", "mlflow", "numpy")
EXTENDABLE = (
    "budget.trials",
    "budget.total_epochs",
    "budget.wall_time_s",
    "budget.disk_bytes",
    "repeats",
    "stop_when",
    "targets",
    "resources.",
    "tracking.",
)
"""Keys that may differ on a resume: how long to go on, what to choose, what follows, with what, and who is told."""


@dataclass(frozen=True)
class Identity:
    """What must not change between the parts of a sweep."""

    spec: Mapping[str, Any]  # the resolved spec, flat dotted keys
    fingerprint: str  # of the store
    code: str  # hash of the three packages' sources

    def changes_from(self, earlier: Identity) -> list[str]:
        """Return a line for each difference that a resume does not allow."""
        keys = sorted(set(self.spec) | set(earlier.spec))
        lines = [
            f"{key}: {earlier.spec.get(key, 'not set')} -> {self.spec.get(key, 'not set')}"
            for key in keys
            if self.spec.get(key) != earlier.spec.get(key) and not key.startswith(EXTENDABLE)
        ]
        if self.fingerprint != earlier.fingerprint:
            lines.append(f"data set: fingerprint {earlier.fingerprint} -> {self.fingerprint}")
        if self.code != earlier.code:
            lines.append(f"code: {earlier.code} -> {self.code}")
        return lines


def code_hash() -> str:
    """Hash the sources that decide a sweep's numbers."""
    digest = hashlib.sha256()
    for package in ("platform", "trainables", "data"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def git_commit() -> str:
    """Return the commit of the project's checkout, or 'unknown' outside one."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in PACKAGES)


def new_folder(runs: Path, name: str) -> Path:
    """Make `runs/<name>-NNN`, numbered after the highest there; never one that exists."""
    runs.mkdir(parents=True, exist_ok=True)
    number = max(_numbered(runs, name), default=0) + 1
    while True:  # another process may take a number between the look and the making
        folder = runs / f"{name}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def newest_folder(runs: Path, name: str) -> Path:
    """Return the newest sweep of the spec called `name`.

    Raises:
        ValueError: there is none.
    """
    folders = {number: folder for number, folder in _numbered(runs, name).items() if (folder / JOURNAL_NAME).exists()}
    if not folders:
        raise ValueError(f"--resume: no sweep of {name!r} under {runs}/; start one without --resume")
    return folders[max(folders)]


def _numbered(runs: Path, name: str) -> dict[int, Path]:
    """Return the folders of the spec called `name` by number; `a-001-001` belongs to `a-001`, not to `a`."""
    matches = ((re.fullmatch(rf"{re.escape(name)}-(\d{{3,}})", path.name), path) for path in runs.glob(f"{name}-*"))
    return {int(match[1]): path for match, path in matches if match}


def read_identity(folder: Path) -> tuple[Identity, tuple[str, ...]]:
    """Return what the sweep in `folder` began with, or last accepted, and its `--set` overrides.

    Raises:
        ValueError: the folder holds no sweep.
    """
    opened = [event for event in read_events(folder) if event.kind == "opened"]
    if not opened:
        raise ValueError(f"--resume {folder}: not a sweep's folder, it has no {JOURNAL_NAME}; name one under runs/")
    body = opened[-1].body
    return Identity(body["spec"], body["fingerprint"], body["code"]), tuple(body["overrides"])


def kept_defaults(given: Any, identity: Identity) -> dict[str, Any]:
    """Return the sampler's defaults that were derived from the first budget: more trials change none.

    Args:
        given: the `search` section, as it is written.
    """
    if not isinstance(given, Mapping) or given.get("sampler", "tpe") != identity.spec["search.sampler"]:
        return {}  # the spec is refused anyway
    earlier = {key: identity.spec.get(f"search.{key}") for key in ("n_startup_trials", "population_size")}
    return {key: value for key, value in earlier.items() if value is not None and key not in given}


def check_unchanged(folder: Path, identity: Identity, accept: bool) -> None:
    """Print what has changed since the sweep in `folder` began.

    Raises:
        ValueError: there are changes, and they are not accepted.
    """
    changes = identity.changes_from(read_identity(folder)[0])
    for line in changes:
        print(f"changed since the sweep began: {line}", file=sys.stderr)
    if changes and not accept:
        raise ValueError(
            f"--resume {folder}: {len(changes)} changes since the sweep began (above); start a new sweep without "
            "--resume, or mix old and new trials with --accept-changes"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the sweep's lock; the kernel frees it with the process, however it ends.

    Raises:
        ValueError: another process runs the sweep.
    """
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process runs this sweep; wait for its end or stop it") from None
        yield


def size_bytes(folder: Path) -> int:
    """Return what the files in the folder hold; those that vanish meanwhile count nothing."""
    return sum(sizes(folder).values())
