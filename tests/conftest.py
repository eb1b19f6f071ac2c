"""Fixtures that several packages' tests share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Run a local Ray with 2 CPUs and an object store of 1 GiB for the whole session, with a sweep's settings."""
    import os

    import ray

    from platform.runner import SETTINGS

    os.environ.update(SETTINGS)  # workers inherit them
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=1024**3,
        include_dashboard=True,  # Ray Train frees a stopped worker group's CPUs through its state API
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, or skip."""
    if not RECORDINGS.is_dir():
        pytest.skip("the real recordings (../shared/data beside the repository) are not here")
    return RECORDINGS
