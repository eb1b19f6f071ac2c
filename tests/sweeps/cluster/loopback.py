"""Clusters on the loopback: several nodes in a process of their own, or a head that `ray start` runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from platform.cluster import SETTINGS
from tests.sweeps.workplace import MARK, ROOT, Workplace, wait_until

RAY = Path(sys.executable).with_name("ray")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_head(folder: Path, port: int, *options: str, **environment: str) -> Iterator[str]:
    """Run a head node, and yield its address; ends what it has started, by process id."""
    address = f"127.0.0.1:{port}"
    variables = {**os.environ, **SETTINGS, MARK: str(folder), "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "", **environment}
    command = [
        RAY, "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--dashboard-agent-listen-port=0",
        f"--temp-dir=/tmp/ray-{port}", "--object-store-memory=150000000", "--block", *options,
    ]  # fmt: skip
    with (folder / "head.txt").open("w") as log:
        head = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
        try:
            assert wait_until(lambda: _is_up(address), 60, step_s=1), (folder / "head.txt").read_text()
            yield address
        finally:
            head.terminate()
            head.wait(120)  # it drains for 30 s at most
            shutil.rmtree(f"/tmp/ray-{port}", ignore_errors=True)


def _is_up(address: str) -> bool:
    command = [RAY, "health-check", "--address", address]
    return subprocess.run(command, env={**os.environ, **SETTINGS}, capture_output=True, check=False).returncode == 0


class Nodes:
    """A running cluster: a head without CPUs, and the nodes that were added."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._read("address")

    def add(self, n_cpus: int = 1) -> int:
        """Start a node, and return its raylet's process."""
        return int(self._ask(f"add {n_cpus}", "raylet"))

    def stored_bytes(self, raylet: int) -> int:
        """Return how many bytes have come into a node's object store since it started."""
        return int(self._ask(f"stored {raylet}", "stored"))

    def kill(self, raylet: int) -> None:
        """End a node as a power failure would."""
        self._ask(f"kill {raylet}", "killed")

    def _ask(self, line: str, word: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read(word)

    def _read(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"{word} "):
                return line.split()[1]
        raise RuntimeError(f"the nodes' process ended with {self._process.wait()} before it said {word!r}")


@contextmanager
def running_nodes(folder: Path) -> Iterator[Nodes]:
    """Run a cluster whose processes carry `folder` as their mark."""
    environment = {**os.environ, **SETTINGS, MARK: str(folder), "RAY_ADDRESS": ""}
    log = (folder / "nodes.txt").open("w")
    with log, subprocess.Popen(
        [sys.executable, "-m", "tests.sweeps.cluster.nodes_process"], cwd=ROOT, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
    ) as process:  # fmt: skip
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(120)


def raylets_that_train(place: Workplace) -> dict[int, int]:
    """Return the raylet of every process that trains a trial now."""
    found: dict[int, int] = {}
    for process in place.processes():
        try:
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and (".train" in title or "trial_of" in title):
                found[process.pid] = process.ppid()
        except psutil.NoSuchProcess:
            continue
    return found
