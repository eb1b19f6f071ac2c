"""The root of a cluster's files, `storage:` in a spec: relative stores, sweeps' folders and MLflow's file lie in it.

A bucket is a root too, seen through copies (`data.bucket`); only MLflow's file can't lie there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from data.bucket import SCHEME, path_of
from data.config import DataConfig
from platform.specs.file import read_spec_file
from platform.specs.sections import TrackingSpec

SQLITE: Final = "sqlite:///"
JOB: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the process that `ray job submit` starts


def check_storage(storage: str) -> str:
    """Return the root.

    Raises:
        ValueError: it is neither an absolute path nor a bucket.
    """
    is_path = Path(storage).is_absolute() and "://" not in storage
    if not is_path and not re.fullmatch(rf"{SCHEME}[a-z0-9][a-z0-9.-]+(/[\w-][\w.-]*)*", storage):
        raise ValueError(
            "must be the absolute path of a folder that every node has, such as /mnt/ecg, or a bucket, such as "
            f"s3://bucket/ecg; got {storage!r}"
        )
    return storage


def root_of(storage: str) -> Path:
    """Return the root's folder: itself, or the copy of a bucket."""
    return path_of(storage) if storage.startswith(SCHEME) else Path(storage)


def in_storage(data: DataConfig, storage: str | None) -> DataConfig:
    """Return the data section with its store below the root, unless its path is absolute."""
    return data if storage is None else data.model_copy(update={"store": str(root_of(storage) / data.store)})


def tracked_in_storage(tracking: TrackingSpec, storage: str | None) -> TrackingSpec:
    """Return the tracking section with MLflow's file below the root, unless its path is absolute or it is a server.

    Raises:
        ValueError: the root is a bucket, where no database can be.
    """
    path = tracking.uri.removeprefix(SQLITE)
    if storage is None or path == tracking.uri or Path(path).is_absolute():
        return tracking
    if storage.startswith(SCHEME):
        raise ValueError(
            "tracking.uri: a database can't lie in a bucket; name MLflow's server, or an absolute path here, "
            f"such as sqlite:////home/me/mlflow.db; got {tracking.uri!r}"
        )
    return tracking.model_copy(update={"uri": f"{SQLITE}{Path(storage) / path}"})


def runs_folder(spec: Path, overrides: Sequence[str], runs: Path) -> Path:
    """Return where sweeps' folders are made: below the spec's `storage`, unless `runs` is absolute.

    Raises:
        SpecError: the spec can't be read.
        ValueError: a job's own folder disappears with the job, and there is no other.
    """
    storage = read_spec_file(spec, overrides).values.get("storage")
    if isinstance(storage, str):
        return root_of(storage) / runs
    if JOB in os.environ and not runs.is_absolute():
        raise ValueError(
            "a job's folder disappears with the job; name one that stays, on all nodes, --set storage=/mnt/ecg, or a "
            "bucket, --set storage=s3://bucket/ecg"
        )
    return runs
