"""Several Ray nodes on the loopback, in a process of its own: `python -m tests.sweeps.cluster.nodes_process`.

It prints the cluster's address, and then obeys its standard input: `add CPUS` starts a node and prints its raylet's
process, `stored PID` prints how many bytes have come into that node's object store since its start, `kill PID` ends it
as a power failure would. At the input's end all nodes stop. Only processes that it has started are ended.
"""

from __future__ import annotations

import sys
from typing import Any

from ray._private.internal_api import node_stats
from ray.cluster_utils import Cluster


def main() -> None:
    cluster: Any = Cluster(  # type: ignore[no-untyped-call]
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "gcs_server_port": 0,
            "include_dashboard": True,  # Ray Train frees a stopped worker group's CPUs through its state API
            "dashboard_host": "127.0.0.1",
            "dashboard_port": 0,
        },
    )
    print(f"address {cluster.address}", flush=True)
    for number, line in enumerate(sys.stdin):
        command, argument = line.split()
        if command == "add":
            name = f"runtime_resources_{number}"  # by default all nodes of a machine share one
            node = cluster.add_node(num_cpus=int(argument), runtime_env_dir_name=name)
            print(f"raylet {raylet(node)}", flush=True)
            continue
        node = next(each for each in cluster.worker_nodes if raylet(each) == int(argument))
        if command == "stored":
            stats = node_stats(node.node_ip_address, node.node_manager_port, include_memory_info=False)
            print(f"stored {stats.store_stats.cumulative_created_bytes}", flush=True)
        else:
            cluster.remove_node(node, allow_graceful=False)
            print(f"killed {argument}", flush=True)
    cluster.shutdown()


def raylet(node: Any) -> int:
    """Return the process of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


if __name__ == "__main__":
    main()
