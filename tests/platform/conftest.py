"""A small run of the session, for the commands that take a trained model."""

from __future__ import annotations

import pytest

from tests.platform.small_run import SmallRun, make_run, make_store


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """Return a run on twelve leads, with a filter and a z-score; do not change it."""
    folder = tmp_path_factory.mktemp("small_run")
    steps = [{"bandpass": {"low_hz": 0.5, "high_hz": 20}}, {"zscore": {"per": "lead"}}]
    return make_run(folder, make_store(folder), steps)
