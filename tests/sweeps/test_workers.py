"""Trials as worker groups give what trials in one process give, and leave nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from tests.sweeps.workplace import TINY_CNN, Workplace, states, times_left_out, wait_until

PARAMS = {**TINY_CNN, "lr": {"choice": [1e-3, 1e-2]}}
GRID = {"metric": "val/auroc", "mode": "max", "sampler": "grid", "scheduler": "none"}


def reports(place: Workplace, workers: int, n_trials: int, **sections: Any) -> list[list[dict[str, float]]]:
    """Run a sweep of `n_trials` on `workers` processes, and return each trial's reports."""
    name = f"workers{workers}"
    code = place.sweep(
        name=name,
        params=PARAMS,
        search=GRID,
        budget={"trials": n_trials, "epochs": 2},
        resources={"workers": workers, "concurrency": 1},
        **sections,
    )
    assert code == 0
    return [times_left_out(trial.reports.values()) for trial in place.record(f"{name}-001").trials.values()]


@pytest.mark.timeout(600)
def test_worker_groups_of_one_and_of_two_agree_with_one_process(place: Workplace) -> None:
    alone = reports(place, workers=0, n_trials=1)
    assert reports(place, workers=1, n_trials=1) == alone  # bit for bit
    for two, one in zip(reports(place, workers=2, n_trials=1)[0], alone[0], strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    check_all_cpus_are_free()


def check_all_cpus_are_free() -> None:
    assert wait_until(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], 15)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_stopped_worker_groups_free_their_cpus(place: Workplace, scripted: None) -> None:
    code = place.sweep(
        method="scripted",
        params={"score": {"choice": [0.9, 0.5, 0.4]}},
        search={**GRID, "scheduler": "asha", "grace_period": 1, "reduction_factor": 2},
        budget={"trials": 3, "epochs": 4},
        resources={"workers": 2},
    )
    assert code == 0
    assert states(place.record()) == {"t0000": "COMPLETED", "t0001": "STOPPED", "t0002": "STOPPED"}
    check_all_cpus_are_free()


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_a_worker_that_dies_fails_its_trial_only(place: Workplace, scripted: None) -> None:
    code = place.sweep(
        method="scripted",
        params={"fault": {"choice": ["raise", "kill", "none"]}},
        search=GRID,
        budget={"trials": 3, "epochs": 2},
        resources={"workers": 2},
    )
    assert code == 0
    assert states(place.record()) == {"t0000": "FAILED", "t0001": "FAILED", "t0002": "COMPLETED"}
    assert "the lead fell off" in place.record().trials["t0000"].error
    check_all_cpus_are_free()
