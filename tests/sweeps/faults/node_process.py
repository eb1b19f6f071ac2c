"""A node of one CPU that joins a cluster of the loopback: `python -m tests.sweeps.faults.node_process ADDRESS`.

`ray start` would not do: it takes the loopback's address for the machine's own, where nobody listens.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ray._private.node import Node
from ray._private.parameter import RayParams


def main() -> None:
    (address,) = sys.argv[1:]
    parameters: Any = RayParams(
        gcs_address=address,
        node_ip_address="127.0.0.1",
        num_cpus=1,
        num_gpus=0,
        object_store_memory=150_000_000,
        node_manager_port=0,
        min_worker_port=0,
        max_worker_port=0,
        include_log_monitor=False,
        dashboard_agent_listen_port=None,
        runtime_env_dir_name=f"runtime_resources_{os.getpid()}",  # by default all nodes of a machine share one
    )
    Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
