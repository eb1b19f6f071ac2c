"""Where Ray puts what a whole sweep rests on: on the driver's node, so that no other node's end can take it along."""

from __future__ import annotations

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Return the strategy that keeps a task or an actor on the node of this process.

    Without it Ray puts an actor that asks for nothing on any node, and a task where there is most room.
    """
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
