"""The machine that a benchmark ran on: part of every result."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

PACKAGES = ("ray", "torch", "numpy", "optuna", "mlflow", "h5py", "pyarrow")


@dataclass(frozen=True)
class Machine:
    """What figures depend on. `load` is the number of runnable processes as the benchmark began."""

    cpu_model: str
    n_cores: int
    memory_bytes: int
    load: float
    versions: Mapping[str, str]

    def text(self) -> str:
        """Return two lines for a person."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        memory = f"{self.memory_bytes / 2**30:.0f} GiB"
        return f"{self.n_cores} cores, {self.cpu_model}, {memory}, load {self.load:.1f} at the start\n{versions}"


def read_machine() -> Machine:
    """Read what this process may use of the machine, and the versions that it uses."""
    return Machine(
        cpu_model=_cpu_model(),
        n_cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        load=os.getloadavg()[0],
        versions={"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
    )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):  # x86, Arm
            return value.strip()
    return "unknown CPU"
