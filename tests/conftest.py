"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Run a local Ray with 2 CPUs and an object store of 1 GiB for the whole session, with a sweep's settings."""
    import ray

    from platform.cluster import LOCAL, init_options, set_environment

    set_environment()  # workers inherit it
    ray.init(**init_options(LOCAL), num_cpus=2, object_store_memory=1024**3, include_dashboard=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, or skip."""
    if not RECORDINGS.is_dir():
        pytest.skip("the real recordings (../shared/data beside the repository) are not here")
    return RECORDINGS
