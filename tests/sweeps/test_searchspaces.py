"""Every shipped search space validates, and runs end to end with a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from platform.spec import parse_spec
from tests.sweeps.workplace import ROOT, Workplace, states

SPACES = sorted((ROOT / "searchspaces").glob("*.yaml"))
STANDS_IN: dict[str, dict[str, Any]] = {  # synthetic records in place of stores that a user ingests
    "ptbxl": {"task": "morphology", "fs_hz": 100, "duration_s": 10},
    "segments": {"task": "beats"},
}


def names(path: Path) -> str:
    return path.stem


def slow_unless(name: str, path: Path) -> Any:
    """Run one search space by default, all of them in `make test-all`."""
    return pytest.param(path, id=path.stem, marks=[] if path.stem == name else [pytest.mark.slow])


def test_there_are_search_spaces() -> None:
    assert SPACES


@pytest.mark.parametrize("path", SPACES, ids=names)
def test_a_shipped_search_space_validates(path: Path, offline: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.main(path, "--dry-run") == 0
    assert "sampled configurations" in capsys.readouterr().out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", [slow_unless("quickstart", path) for path in SPACES])
def test_a_shipped_search_space_runs(path: Path, place: Workplace) -> None:
    spec = parse_spec(path)
    data = {"store": place.folder / "store", "labels": "null", "folds": "null"}
    synthetic = STANDS_IN.get(path.stem)
    if synthetic is None:
        assert spec.data.synthetic is not None
        synthetic = spec.data.synthetic.model_dump(mode="json")
    tiny = {
        **{f"data.{key}": value for key, value in data.items()},
        "data.synthetic": json.dumps({**synthetic, "n_records": 300}),
        "budget.trials": 2,
        "budget.epochs": 3,  # warm-up may take two
        "tracking.uri": place.tracking_uri,
        "tracking.experiment": place.folder.name,
    }
    arguments = [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]
    assert place.main(path, *arguments) == 0
    assert set(states(place.record(f"{spec.name}-001")).values()) <= {"COMPLETED", "STOPPED"}
