"""The root of a cluster's files, `storage:` in a spec: relative stores, sweeps' folders and MLflow's file lie in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from data.config import DataConfig
from platform.specs.file import read_spec_file
from platform.specs.sections import TrackingSpec

SQLITE: Final = "sqlite:///"
JOB: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the process that `ray job submit` starts


def check_storage(storage: str) -> str:
    """Return the root.

    Raises:
        ValueError: it is no absolute path.
    """
    if not Path(storage).is_absolute() or "://" in storage:
        raise ValueError(
            "must be the absolute path of a folder that every node has, such as /mnt/ecg; a bucket is mounted first "
            f"(docs/cluster.md); got {storage!r}"
        )
    return storage


def in_storage(data: DataConfig, storage: str | None) -> DataConfig:
    """Return the data section with its store below the root, unless its path is absolute."""
    return data if storage is None else data.model_copy(update={"store": str(Path(storage) / data.store)})


def tracked_in_storage(tracking: TrackingSpec, storage: str | None) -> TrackingSpec:
    """Return the tracking section with MLflow's file below the root, unless its path is absolute or it is a server."""
    path = tracking.uri.removeprefix(SQLITE)
    if storage is None or path == tracking.uri:
        return tracking
    return tracking.model_copy(update={"uri": f"{SQLITE}{Path(storage) / path}"})


def runs_folder(spec: Path, overrides: Sequence[str], runs: Path) -> Path:
    """Return where sweeps' folders are made: below the spec's `storage`, unless `runs` is absolute.

    Raises:
        SpecError: the spec can't be read.
        ValueError: a job's own folder disappears with the job, and there is no other.
    """
    storage = read_spec_file(spec, overrides).values.get("storage")
    if isinstance(storage, str):
        return Path(storage) / runs
    if JOB in os.environ and not runs.is_absolute():
        raise ValueError(
            "a job's folder disappears with the job; name one that stays, on all nodes: --set storage=/mnt/ecg"
        )
    return runs
