"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT.parent / "shared" / "data"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep in one process what runs on Ray, so that there is one cluster, and in one process each other file.

    What runs on Ray comes first: it takes longest, and the other processes of `pytest -n` have the rest meanwhile.
    """
    whole_runs = ROOT / "tests" / "sweeps"

    def group(item: pytest.Item) -> str:
        on_ray = whole_runs in item.path.parents or "ray_cluster" in getattr(item, "fixturenames", ())
        return "ray" if on_ray else str(item.path.relative_to(ROOT))

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: group(item) != "ray")


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
