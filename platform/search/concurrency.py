"""How many trials run at a time: as many as the cluster holds at the moment, asked anew as nodes join and leave."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray

from platform.specs.sections import ResourcesSpec

Resources = Mapping[str, float]
REFRESH_S = 1.0


def n_processes(resources: ResourcesSpec, node: Resources) -> int:
    """Return how many processes of trials fit on one node."""
    fits = int(node.get("CPU", 0) / resources.cpus + 1e-9)  # 2 // 0.2 is 9
    return min(fits, int(node.get("GPU", 0) / resources.gpus + 1e-9)) if resources.gpus else fits


def n_trials(resources: ResourcesSpec, nodes: Sequence[Resources]) -> int:
    """Return how many trials fit on nodes: a process lies on one of them, a worker group may lie on several."""
    return sum(n_processes(resources, node) for node in nodes) // max(1, resources.workers)


def check_room(resources: ResourcesSpec, is_elastic: bool) -> None:
    """Check that a trial fits on the cluster.

    Args:
        is_elastic: whether nodes may join; then a spec that says how many trials it wants at a time can wait for them.

    Raises:
        ValueError: not even one fits.
    """
    nodes = living_nodes()
    if n_trials(resources, nodes) or (is_elastic and resources.concurrency):
        return
    group_size = max(1, resources.workers)
    n_cpus, n_gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    largest = max((node.get("CPU", 0) for node in nodes), default=0)
    way_out = ", or set resources.concurrency and trials wait for the autoscaler's nodes" if is_elastic else ""
    raise ValueError(
        f"resources: a trial needs {group_size * resources.cpus:g} CPUs and {group_size * resources.gpus:g} GPUs, "
        f"but the cluster has {n_cpus:g} and {n_gpus:g} (a node at most {largest:g} CPUs); "
        f"lower resources.workers, cpus or gpus{way_out}"
    )


class Concurrency:
    """Says how many trials may be under way, by what the cluster has now.

    Args:
        is_elastic: whether nodes may join. Then the number that the spec asks for stands as it is: trials without room
            wait, and are the demand that an autoscaler sees.
        nodes: says what each living node has.
        clock: seconds, monotone.
    """

    def __init__(
        self,
        resources: ResourcesSpec,
        is_elastic: bool,
        nodes: Callable[[], Sequence[Resources]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._resources, self._is_elastic = resources, is_elastic
        self._nodes, self._clock = nodes or living_nodes, clock
        self._value, self._asked_s = 0, -math.inf

    def __call__(self) -> int:
        now_s = self._clock()
        if now_s - self._asked_s >= REFRESH_S:
            self._value, self._asked_s = self._count(), now_s
        return self._value

    def _count(self) -> int:
        asked = self._resources.concurrency
        if asked is not None and self._is_elastic:
            return asked
        fits = n_trials(self._resources, self._nodes())
        return max(1, min(fits, asked or fits))  # one waits where all nodes have left


def living_nodes() -> list[Resources]:
    """Return the resources of every living node of the cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()
    return [node["Resources"] for node in nodes if node["Alive"]]
