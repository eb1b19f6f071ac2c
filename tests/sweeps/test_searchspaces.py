"""Every shipped search space validates, and runs end to end with a tiny budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from platform.spec import parse_spec
from tests.sweeps.workplace import ROOT, Workplace, states

SPACES = sorted((ROOT / "searchspaces").glob("*.yaml"))


def names(path: Path) -> str:
    return path.stem


def test_there_are_search_spaces() -> None:
    assert SPACES


@pytest.mark.parametrize("path", SPACES, ids=names)
def test_a_shipped_search_space_validates(path: Path, offline: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline.main(path, "--dry-run") == 0
    assert "sampled configurations" in capsys.readouterr().out


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", SPACES, ids=names)
def test_a_shipped_search_space_runs(path: Path, place: Workplace) -> None:
    data = parse_spec(path).data
    assert data.synthetic is not None
    tiny = {
        "budget.trials": 2, "budget.epochs": 1, "data.store": place.folder / "store", "data.synthetic.n_records": 300,
        "data.synthetic.duration_s": data.synthetic.duration_s, "tracking.uri": place.tracking_uri,
        "tracking.experiment": place.folder.name, "params.batch_size": 64,
    }  # fmt: skip
    arguments = [part for key, value in tiny.items() for part in ("--set", f"{key}={value}")]
    assert place.main(path, *arguments) == 0
    name = parse_spec(path).name
    assert list(states(place.record(f"{name}-001")).values()) == ["COMPLETED"] * 2
