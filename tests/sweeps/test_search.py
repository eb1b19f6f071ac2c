"""Samplers, schedulers, constraints and objectives in whole sweeps."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from tests.sweeps.scripted_method import grid
from tests.sweeps.workplace import Workplace, states, times_left_out

SCORE = {"score": {"uniform": [0, 1]}, "epoch_s": {"uniform": [0, 0.01]}}
ONE_EPOCH = {"trials": 4, "epochs": 1}


def search(sampler: str, **keys: Any) -> dict[str, Any]:
    return {"metric": "val/auroc", "mode": "max", "sampler": sampler, "scheduler": "none", **keys}


def in_default_run(sampler: str) -> Any:
    """Most samplers run in `make test-all` only; their proposals are tested without Ray."""
    return sampler if sampler == "gp" else pytest.param(sampler, marks=pytest.mark.slow)


@pytest.mark.parametrize("sampler", [*map(in_default_run, ["tpe", "gp", "cmaes", "nsgaii", "qmc", "random"])])
def test_every_sampler_runs(sampler: str, place: Workplace, scripted: None) -> None:
    assert place.sweep(method="scripted", params=SCORE, search=search(sampler), budget=ONE_EPOCH) == 0
    record = place.record()
    assert list(states(record).values()) == ["COMPLETED"] * 4
    assert len({trial.params["score"] for trial in record.trials.values()}) > 2  # gp may try an end of the range twice


def test_the_same_seed_gives_the_same_configurations_and_losses(place: Workplace) -> None:
    spec = place.write(
        search={"metric": "val/auroc", "mode": "max", "n_startup_trials": 1}, budget={"trials": 3, "epochs": 2}
    )
    assert place.main(spec) == 0
    assert place.main(spec) == 0
    first, second = (place.record(name).trials.values() for name in ("tiny-001", "tiny-002"))
    assert [trial.params for trial in first] == [trial.params for trial in second]
    for one, other in zip(first, second, strict=True):
        assert times_left_out(one.reports.values()) == times_left_out(other.reports.values())


def test_infeasible_proposals_never_become_trials(place: Workplace, scripted: None) -> None:
    code = place.sweep(
        method="scripted",
        params={**grid(size=[1, 50_000]), **SCORE},
        search=search("random"),
        constraints=["onnx_bytes <= 100000"],
        budget=ONE_EPOCH,
    )
    assert code == 0
    record = place.record()
    assert [trial.params["size"] for trial in record.trials.values()] == [1] * 4
    assert record.infeasible
    assert {event.body["params"]["size"] for event in record.infeasible} == {50_000}
    study = optuna.load_study(study_name="tiny-001", storage=f"sqlite:///{place.runs / 'tiny-001' / 'study.db'}")
    assert len(study.trials) == record.n_proposals
    assert sorted(place.mlflow_runs()) == ["", *record.trials]


def test_constraints_that_nothing_keeps_end_the_sweep(
    place: Workplace, scripted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    params = {"size": 50_000, **SCORE}
    code = place.sweep(method="scripted", params=params, search=search("random"), constraints=["onnx_bytes <= 100000"])
    assert code == 1
    assert "proposals in a row break the constraints onnx_bytes <= 100000" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsgaii", marks=pytest.mark.slow)])
def test_several_objectives_give_a_front(sampler: str, place: Workplace, scripted: None) -> None:
    objectives = [{"metric": "val/auroc", "mode": "max"}, {"metric": "val/cost", "mode": "min"}]
    code = place.sweep(
        method="scripted",
        params={**SCORE, "size": {"randint": [1, 9]}},
        search={"metric": objectives, "sampler": sampler, "scheduler": "none"},
        budget=ONE_EPOCH,
    )
    assert code == 0
    study = optuna.load_study(study_name="tiny-001", storage=f"sqlite:///{place.runs / 'tiny-001' / 'study.db'}")
    bests = [trial.values for trial in study.best_trials]
    assert bests
    for trial in study.trials:
        assert not any(best[0] > trial.values[0] and best[1] < trial.values[1] for best in bests) or (
            trial.values not in bests
        )
    assert "pareto" in (place.runs / "tiny-001" / "report.html").read_text(encoding="utf-8").lower()


def test_the_median_rule_stops_what_is_worse_than_the_others(place: Workplace, scripted: None) -> None:
    code = place.sweep(
        method="scripted",
        params=grid(score=[0.5, 0.6, 0.7, 0.8, 0.1]),
        search=search("grid", scheduler="median", grace_period=1),
        budget={"trials": 5, "epochs": 3},
    )
    assert code == 0
    assert states(place.record())["t0004"] == "STOPPED"
    assert place.record().trials["t0004"].epochs < 3
