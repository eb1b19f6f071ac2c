"""The benchmarks run, with counts too small to mean anything."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import data_throughput, trial_overhead

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="the benchmarks run two trials at a time"),
]


def medians_of(path: Path) -> dict[str, float]:
    return {figure["name"]: figure["median"] for figure in json.loads(path.read_text())["figures"]}


def test_trial_overhead_compares_this_platform_with_four_others(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    assert trial_overhead.main(["--repeats", "1", "--trials", "3", "--json", str(file)]) == 0
    assert len(medians_of(file)) == 5


def test_data_throughput_compares_four_sources_and_counts_copies(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    arguments = ["--repeats", "1", "--records", "400", "--epochs", "4", "--epoch-s", "1", "--json", str(file)]
    assert data_throughput.main(arguments) == 0
    medians = medians_of(file)
    assert sum(medians[name] > 0 for name, _ in data_throughput.NAMES.values()) == 4
    assert "copies of the data, two trials" in medians
