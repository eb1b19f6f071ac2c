"""Fixtures that several packages' tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.fault_table import lines_of, rows_of

ROOT = Path(__file__).parents[1]
RECORDINGS = ROOT.parent / "shared" / "data"


def runs_on_ray(path: Path) -> bool:
    """Tell whether a file of tests needs a cluster."""
    return ROOT / "tests" / "sweeps" in path.parents or "ray_cluster" in path.read_text(encoding="utf-8")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what runs on Ray: it takes longest, and the other processes of `pytest -n` have the rest meanwhile."""
    on_ray = {path: runs_on_ray(path) for path in {item.path for item in items}}
    items.sort(key=lambda item: not on_ray[item.path])


class OneCluster(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Deals out files of tests to processes; those that run on Ray to the same one, so that there is one cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if runs_on_ray(ROOT / file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneCluster:
    return OneCluster(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was injected into sweeps, and what became of it."""
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.stats.get(kind, ())]
    rows = rows_of(each for report in reports if report.when == "call" for each in report.user_properties)
    if rows:
        terminalreporter.section("faults")
        for line in lines_of(rows):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """Run an S3 server for the whole session, and return the environment in which it is AWS."""
    from tests.buckets import running_s3

    with running_s3() as environment:
        yield environment


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a new bucket, which this process finds."""
    from tests.buckets import new_bucket

    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return new_bucket(s3)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Run a local Ray with 2 CPUs and an object store of 1 GiB for the whole session, with a sweep's settings."""
    import ray

    from platform.cluster import LOCAL, init_options, set_environment

    set_environment()  # workers inherit it
    noticed_soon = {"health_check_period_ms": 500}  # tests of nodes that die wait for it
    options = {**init_options(LOCAL), "include_dashboard": True, "_system_config": noticed_soon}
    ray.init(**options, num_cpus=2, object_store_memory=1024**3)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Return the folder of real recordings, or skip."""
    if not RECORDINGS.is_dir():
        pytest.skip("the real recordings (../shared/data beside the repository) are not here")
    return RECORDINGS
