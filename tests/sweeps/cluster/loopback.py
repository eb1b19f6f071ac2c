"""The other end of `nodes_process`: starts it, talks to it, and sees which node a trial's process belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from platform.cluster import SETTINGS
from tests.sweeps.workplace import MARK, ROOT, Workplace


class Nodes:
    """A running cluster: a head without CPUs, and the nodes that were added."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._read("address")

    def add(self, n_cpus: int = 1) -> int:
        """Start a node, and return its raylet's process."""
        return int(self._ask(f"add {n_cpus}", "raylet"))

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
