"""How many trials run at a time follows from what the cluster has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platform.search import concurrency
from platform.search.concurrency import Concurrency, Resources, check_room, n_trials
from platform.specs.sections import ResourcesSpec


@pytest.mark.parametrize(
    ("nodes", "resources", "expected"),
    [
        ([{"CPU": 2.0}], {}, 2),
        ([{"CPU": 2.0}], {"cpus": 2.0}, 1),
        ([{"CPU": 2.0}], {"cpus": 0.2}, 10),  # 2 // 0.2 is 9
        ([{"CPU": 16.0}], {"workers": 3, "cpus": 2.0}, 2),
        ([{"CPU": 16.0, "GPU": 1.0}], {"gpus": 0.1}, 10),
        ([{"CPU": 4.0, "GPU": 8.0}], {"gpus": 0.5}, 4),  # the CPUs are the bottleneck
        ([{"CPU": 64.0, "GPU": 8.0}], {"workers": 4, "gpus": 1.0}, 2),
        ([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], {}, 3),
        ([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}], {"workers": 2}, 1),  # over two nodes
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"cpus": 2.0}, 2),  # six CPUs, and no room for three
        ([{}, {"CPU": 4.0}], {}, 4),  # a head node that runs no trial
    ],
)
def test_as_many_trials_run_as_the_nodes_hold(nodes: list[Resources], resources: dict[str, Any], expected: int) -> None:
    assert n_trials(ResourcesSpec(**resources), nodes) == expected


def of(nodes: list[Resources], is_elastic: bool = False, **resources: Any) -> Concurrency:
    return Concurrency(ResourcesSpec(**resources), is_elastic, lambda: nodes, clock=iter(range(99)).__next__)


@pytest.mark.parametrize("is_elastic", [False, True])
def test_the_number_follows_nodes_as_they_join_and_leave(is_elastic: bool) -> None:
    nodes: list[Resources] = [{"CPU": 2.0}]
    now = of(nodes, is_elastic)
    assert now() == 2
    nodes.append({"CPU": 4.0})
    assert now() == 6
    del nodes[0]
    assert now() == 4
    nodes.clear()
    assert now() == 1, "one waits for the next node"


def test_the_spec_bounds_the_number() -> None:
    assert of([{"CPU": 16.0}], concurrency=3)() == 3
    assert of([{"CPU": 2.0}], concurrency=100)() == 2


def test_trials_that_wait_for_room_on_a_cluster_are_what_its_autoscaler_sees() -> None:
    assert of([{"CPU": 2.0}], is_elastic=True, concurrency=20)() == 20
    assert of([{"CPU": 2.0}], is_elastic=True, gpus=1.0, concurrency=4)() == 4


@pytest.mark.parametrize("resources", [{"cpus": 4.0}, {"gpus": 1.0}, {"workers": 3}])
def test_a_trial_that_can_never_run_is_refused(monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any]) -> None:
    monkeypatch.setattr(concurrency, "living_nodes", lambda: [{"CPU": 2.0}])
    with pytest.raises(ValueError, match=r"a trial needs .* but the cluster has 2 and 0 .*; lower resources.workers"):
        check_room(ResourcesSpec(**resources, concurrency=2), is_elastic=False)
    with pytest.raises(ValueError, match=r"or set resources.concurrency and trials wait for the autoscaler's nodes"):
        check_room(ResourcesSpec(**resources), is_elastic=True)
    check_room(ResourcesSpec(**resources, concurrency=2), is_elastic=True)


@given(
    cpus=st.lists(st.integers(0, 64), min_size=1, max_size=5),
    workers=st.integers(0, 8),
    each=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0]),
)
def test_the_trials_together_never_ask_for_more_than_there_is(cpus: list[int], workers: int, each: float) -> None:
    nodes: list[Resources] = [{"CPU": float(n)} for n in cpus]
    group = max(1, workers) * each
    assert n_trials(ResourcesSpec(workers=workers, cpus=each), nodes) * group <= sum(cpus) + 1e-6
