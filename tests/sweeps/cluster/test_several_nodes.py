"""A sweep uses the nodes that there are: it spreads, follows them as they join and leave, and trains across them."""

from __future__ import annotations

from typing import Any

import pytest

from data.loading import DataConfig, describe
from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.cluster.loopback import raylets_that_train, running_nodes
from tests.sweeps.workplace import TINY_CNN, Workplace, states, times_left_out, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1500)]
RANDOM = {"metric": "val/auroc", "mode": "max", "sampler": "random", "scheduler": "none"}
SLOW_EPOCHS = {**TINY_CNN, "batch_size": 1, "depth": 4, "channels": 32, "lr": {"loguniform": [1e-4, 1e-2]}}


def test_a_sweep_spreads_over_nodes_that_join_and_survives_one_that_dies(offline: Workplace) -> None:
    place = offline
    spec = place.write(params=SLOW_EPOCHS, search=RANDOM, budget={"trials": 4, "epochs": 25}, resources={})
    with running_nodes(place.folder) as nodes:
        first = nodes.add()
        process = place.start(spec, "--address", nodes.address)
        assert wait_until(lambda: set(raylets_that_train(place).values()) == {first}, 240), place.output
        assert len(raylets_that_train(place)) == 1, "one CPU, one trial"
        second = nodes.add()
        assert wait_until(lambda: set(raylets_that_train(place).values()) == {first, second}, 120), place.output
        assert wait_until(lambda: place.record().epochs >= 3, 300), place.output
        nodes.kill(first)  # on which the data were prepared
        assert process.wait(900) == 0, place.output
    record = place.record()
    assert set(states(record).values()) == {"COMPLETED"}
    assert sum(trial.losses for trial in record.trials.values()) >= 1
    check_aftermath(place)
    assert wait_until(lambda: not place.processes(), 60), place.processes()


def test_data_reach_a_node_once_however_many_trials_read_them_there(offline: Workplace) -> None:
    place, data = offline, {"store": str(offline.stores / "twelve_leads")}
    params = {**TINY_CNN, "batch_size": 2, "lr": {"loguniform": [1e-4, 1e-2]}}
    spec = place.write(data=data, params=params, search=RANDOM, budget={"trials": 8, "epochs": 10}, resources={})
    description = describe(DataConfig.model_validate(data))
    n_records = sum(description.counts[role].n_records for role in ("train", "val"))
    data_bytes = n_records * len(description.signal.lead_names) * description.signal.n_timesteps * 4
    with running_nodes(place.folder) as nodes:
        nodes.add()
        process = place.start(spec, "--address", nodes.address)
        assert wait_until(lambda: raylets_that_train(place), 240), place.output
        late = nodes.add(n_cpus=2)  # all that comes into its store is for its trials
        assert wait_until(lambda: list(raylets_that_train(place).values()).count(late) == 2, 120), place.output
        assert process.wait(900) == 0, place.output
        assert data_bytes <= nodes.stored_bytes(late) < 1.5 * data_bytes


def test_a_worker_group_across_two_nodes_trains_as_one_process_does(offline: Workplace) -> None:
    place = offline
    search = {**RANDOM, "sampler": "grid"}
    sections: dict[str, Any] = {
        "params": {**TINY_CNN, "lr": {"choice": [1e-2]}}, "search": search, "budget": {"trials": 1, "epochs": 2}
    }  # fmt: skip
    with running_nodes(place.folder) as nodes:
        nodes.add()
        nodes.add()
        reports = {}
        for workers in (0, 2):
            spec = place.write(name=f"w{workers}", resources={"workers": workers}, **sections)
            assert place.start(spec, "--address", nodes.address).wait(600) == 0, place.output
            (trial,) = place.record(f"w{workers}-001").trials.values()
            reports[workers] = times_left_out(trial.reports.values())
    for two, one in zip(reports[2], reports[0], strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    assert len(reports[0]) == 2
