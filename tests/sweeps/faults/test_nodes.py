"""Nodes that die under a sweep's trials, as in a power failure: all processes of a node get SIGKILL at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random
from typing import Any

import psutil
import pytest
import ray

from platform.cluster import SETTINGS
from tests.sweeps.cluster.loopback import raylets_that_train
from tests.sweeps.faults.faulty_method import FAULTY
from tests.sweeps.faults.test_trials import moments
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import MARK, ROOT, Workplace, states, wait_until
from trainables.methods import METHODS

NODE = "ECG_TEST_NODE"  # an environment variable by which a node's processes are found


class Node:
    """A node of one CPU beside the session's own."""

    def __init__(self, place: Workplace, name: str, address: str) -> None:
        self._place, self._name = place, name
        command = [sys.executable, "-m", "tests.sweeps.faults.node_process", address]
        environment = {**os.environ, **SETTINGS, MARK: str(place.folder), NODE: name, "RAY_ADDRESS": ""}
        with (place.folder / f"{name}.txt").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    @property
    def processes(self) -> list[psutil.Process]:
        return [process for process in self._place.processes() if _node(process) == self._name]

    def trains(self) -> bool:
        return bool(raylets_that_train(self._place).keys() & {process.pid for process in self.processes})

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        self._process.wait(30)


def _node(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(NODE)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


@contextmanager
def added_node(place: Workplace, number: int, address: str) -> Iterator[Node]:
    """Add a node, and kill it at the end."""
    node = Node(place, f"n{number}", address)
    try:
        yield node
    finally:
        node.kill()


def _lose_nodes(place: Workplace, address: str, chance: Random, n_kills: int) -> None:
    """Add a node and kill it while it trains, again and again."""
    for number in range(n_kills):
        with added_node(place, number, address) as node:
            assert wait_until(node.trains, 120), (place.folder / f"n{number}.txt").read_text()
            time.sleep(chance.uniform(0, 1.5))


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("n_kills", "seed"), [(1, 7), pytest.param(10, None, marks=[pytest.mark.faults, pytest.mark.slow])]
)
def test_trials_of_a_node_that_dies_go_on_elsewhere(
    place: Workplace, tally: Tally, monkeypatch: pytest.MonkeyPatch, n_kills: int, seed: int | None
) -> None:
    monkeypatch.setitem(METHODS, "faulty", FAULTY)
    sections: dict[str, Any] = {
        "method": "faulty",
        "params": {"epoch_s": 1.0, "score": {"uniform": [0, 1]}},
        "search": {"metric": "val/auroc", "mode": "max", "sampler": "random", "scheduler": "none"},
        "budget": {"trials": 3 + 8 * (n_kills - 1), "epochs": 4},  # the last node is there before the last trial
        "resources": {"retries": n_kills},
    }
    with ThreadPoolExecutor(1) as pool:
        address = ray.get_runtime_context().gcs_address
        injected = pool.submit(_lose_nodes, place, address, moments(seed), n_kills)
        assert wait_until(lambda: len(ray.nodes()) > 1 or injected.done(), 120)
        code = place.sweep(**sections)
        injected.result()
    assert code == 0
    record = place.record()
    assert set(states(record).values()) == {"COMPLETED"}
    assert 1 <= sum(trial.losses for trial in record.trials.values()) <= n_kills
    assert wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, 60)
    tally.check("kill -9 of a node", place, n_kills)
