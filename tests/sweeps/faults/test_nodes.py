"""Nodes that die under a sweep's trials, as in a power failure: all processes of a node get SIGKILL at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import psutil
import pytest
import ray

from platform.cluster import SETTINGS
from tests.sweeps.cluster.loopback import raylets_that_train
from tests.sweeps.faults.faulty_method import FAULTY
from tests.sweeps.faults.test_trials import RANDOM, moments
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import MARK, ROOT, Workplace, states, wait_until
from trainables.methods import METHODS

NODE = "ECG_TEST_NODE"  # an environment variable by which a node's processes are found


@pytest.fixture(autouse=True)
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "faulty", FAULTY)


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


def _lose_node(place: Workplace, address: str, chance: Random) -> None:
    """Add a node, and kill it while it trains."""
    node = Node(place, "n0", address)
    try:
        assert wait_until(node.trains, 120), (place.folder / "n0.txt").read_text()
        time.sleep(chance.uniform(0, 3))
    finally:
        node.kill()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [7, *RANDOM])
def test_the_trial_of_a_node_that_dies_goes_on_elsewhere(place: Workplace, tally: Tally, seed: int | None) -> None:
    sections: dict[str, Any] = {
        "method": "faulty",
        "params": {"epoch_s": 1.5, "score": {"choice": [0.5, 0.6, 0.7]}},  # a trial for each CPU
        "search": {"metric": "val/auroc", "mode": "max", "sampler": "grid", "scheduler": "none"},
        "budget": {"trials": 3, "epochs": 8},  # the others must not be over before the node has its trial
        "resources": {},
    }
    with ThreadPoolExecutor(1) as pool:
        injected = pool.submit(_lose_node, place, ray.get_runtime_context().gcs_address, moments(seed))
        assert wait_until(lambda: _n_alive() > 1 or injected.done(), 120)
        code = place.sweep(**sections)
        injected.result()
    assert code == 0
    record = place.record()
    assert set(states(record).values()) == {"COMPLETED"}
    assert sum(trial.losses for trial in record.trials.values()) == 1
    assert wait_until(lambda: _n_alive() == 1, 60)
    tally.check("kill -9 of a node", place)


def _n_alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())
