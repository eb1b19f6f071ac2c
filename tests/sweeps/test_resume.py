"""A finished sweep is extended; what changed since it began is named and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from platform import sweep_run
from tests.sweeps.scripted_method import grid
from tests.sweeps.workplace import Workplace, states

FIRST = {"method": "scripted", "search": {"metric": "val/auroc", "mode": "max", "sampler": "grid"}}
PARAMS = grid(score=[0.6, 0.7, 0.5, 0.9])


def scripted_spec(n_trials: int, **sections: object) -> dict[str, object]:
    return {**FIRST, "params": PARAMS, "budget": {"trials": n_trials, "epochs": 1}, **sections}


@pytest.fixture
def two_trials(place: Workplace, scripted: None) -> Workplace:
    """Return the place of a finished sweep of two trials; the second is the better."""
    assert place.sweep(**scripted_spec(2)) == 0
    return place


def test_a_finished_sweep_is_extended_and_tested_again_only_for_another_best_trial(two_trials: Workplace) -> None:
    place, spec = two_trials, two_trials.folder / "tiny.yaml"
    runs_before = {name: run.info.run_id for name, run in place.mlflow_runs().items()}
    assert [event.trial for event in place.record().tested] == ["t0001"]

    assert place.main(spec, "--resume", "--set", "budget.trials=3") == 0
    assert states(place.record()) == dict.fromkeys(["t0000", "t0001", "t0002"], "COMPLETED")
    assert [event.trial for event in place.record().tested] == ["t0001"]

    assert place.main(spec, "--resume", "--set", "budget.trials=4") == 0
    assert [event.trial for event in place.record().tested] == ["t0001", "t0003"]
    runs = place.mlflow_runs()
    assert {name: run.info.run_id for name, run in runs.items() if name in runs_before} == runs_before
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs[""].data.metrics["test_looks"] == 2
    assert [trial.attempts for trial in place.record().trials.values()] == [1, 1, 1, 1]
    assert [path.name for path in place.runs.iterdir()] == ["tiny-001"]

    # Without --resume the same spec starts a new folder.
    shutil.copy(spec, place.folder / "again.yaml")
    assert place.main(place.folder / "again.yaml", "--set", "budget.trials=1") == 0
    assert sorted(path.name for path in place.runs.iterdir()) == ["tiny-001", "tiny-002"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_change_is_printed_and_refused_unless_accepted(
    two_trials: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, before = two_trials, snapshot(two_trials.runs)

    def refused(spec: Path) -> str:
        capsys.readouterr()
        assert place.main(spec, "--resume") == 2
        assert snapshot(place.runs) == before
        return capsys.readouterr().err

    wider = place.write("wider.yaml", **scripted_spec(2, params=grid(score=[0.6, 0.7, 0.5, 0.9, 0.95])))
    assert "params.score.choice: [0.6, 0.7, 0.5, 0.9] -> [0.6, 0.7, 0.5, 0.9, 0.95]" in refused(wider)
    other = place.write("other.yaml", **scripted_spec(2, data={"store": str(place.stores / "twelve_leads")}))
    assert "data set: fingerprint" in refused(other)
    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "code_hash", lambda: "another")
        assert "-> another" in refused(place.folder / "tiny.yaml")

    assert place.main(wider, "--resume", "--accept-changes", "--set", "budget.trials=5") == 0
    assert "params.score.choice" in capsys.readouterr().err
    assert list(states(place.record()).values()) == ["COMPLETED"] * 5
    assert place.record().trials["t0004"].params["score"] == 0.95
