"""The Ray cluster that a command runs on: one that is there already, or one started on this machine for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import ray_constants
from ray._private.runtime_env import packaging
from ray.exceptions import AuthenticationError

from data.bucket import COPIES, copies
from platform.pages.units import format_bytes
from platform.project import ROOT
from platform.specs.storage import JOB

LOCAL: Final = "local"


def read_environment(path: Path) -> dict[str, str]:
    """Read a file of NAME=VALUE lines, as a shell would: comments and empty lines count nothing."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("=", maxsplit=1) for line in lines if line and not line.startswith("#"))


SETTINGS: Final[Mapping[str, str]] = {
    **read_environment(ROOT / "cluster.env"),
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our journal replaces CSV, JSON and TensorBoard files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the trial itself checks that it reports the objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune's would kill trials
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshot is never restored
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher itself holds proposals back
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default of 2 s makes every report of a worker group wait
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Environment of the driver and of every process that it has Ray start; a user's own values win."""


def set_environment() -> None:
    """Give this process, and those that it starts, the settings that its user has not set."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    raylet: Any = ray._raylet  # no types
    raylet.Config.initialize("")  # Ray read the mode of authentication when it was imported


def default_address() -> str:
    """Return the cluster that the environment names, as Ray sets it in a job; without one, this machine."""
    return os.environ.get("RAY_ADDRESS") or LOCAL


@contextmanager
def ray_cluster(address: str = LOCAL) -> Iterator[None]:
    """Use the cluster that this process is connected to, or join one, or start one here; leave or stop it afterwards.

    Args:
        address: `auto`, `HOST:PORT`, or `local` for one of this command's own.

    Raises:
        ValueError: the code is too large to travel, the address is Ray Client's, or there is no token for it.
        ConnectionError: there is no cluster at the address.
    """
    set_environment()
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(**init_options(address))
    except AuthenticationError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(f"--address {address}: {first}; put the cluster's token into ~/.ray/auth_token") from None
    try:
        yield
    finally:
        ray.shutdown()


def init_options(address: str) -> dict[str, Any]:
    """Return the arguments of `ray.init`: on a cluster the code and the settings travel with the job.

    Raises:
        ValueError: as `ray_cluster`.
    """
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        # The dashboard stays on: Ray Train frees a stopped worker group's CPUs through its state API.
        ray_constants.ENABLE_RAY_CLUSTER = False  # nothing listens beyond the loopback; Ray's default on other systems
        return {**options, "dashboard_host": "127.0.0.1"}
    if address.startswith("ray://"):
        raise ValueError(
            f"--address {address}: a sweep does not run through Ray Client; start it on the cluster with "
            "ray job submit --working-dir . -- python -m platform.sweep SPEC"
        )
    variables = {name: os.environ[name] for name in SETTINGS}
    variables[COPIES] = str(copies().parent)  # a node's own home may lie elsewhere
    runtime_env: dict[str, Any] = {"env_vars": variables}
    if JOB not in os.environ:  # a job has brought its own
        check_code_size(ROOT, packaging.GCS_STORAGE_MAX_SIZE)
        runtime_env["working_dir"] = str(ROOT)
    return {**options, "runtime_env": runtime_env}


def check_code_size(folder: Path, limit_bytes: int) -> None:
    """Check that what travels as Ray's `working_dir` is small enough.

    Raises:
        ValueError: it is not; names what takes most.
    """
    sizes: dict[str, int] = {}

    def count(path: Path) -> None:
        if path.is_file():
            top = path.relative_to(folder).parts[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size

    packaging._dir_travel(folder, [], count, include_gitignore=True, logger=logging.getLogger(__name__))
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        raise ValueError(
            f"{folder} has {format_bytes(total)} of code, more than the {format_bytes(limit_bytes)} that Ray carries "
            f"to a cluster; name what trials do not need in .rayignore (largest: {', '.join(largest)})"
        )
