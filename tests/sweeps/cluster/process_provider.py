"""A node provider whose machines are processes: `ray start --block` on the loopback, ended by their ids.

What the wheel brings for this (`fake_multinode`) needs a file that it lacks, so the autoscaler gets this class as
`type: external`. It lives in Ray's monitor process, and writes what it does to `log` of the provider's section.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import RLock
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    STATUS_UP_TO_DATE,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_NAME,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)

HEAD = "f" * 51 + "00000"
"""Nodes are known by Ray's own ids, which are set when they start: with `use_node_id_as_ip` the autoscaler finds each
one's load by it, for all have the loopback's address."""


class ProcessNodeProvider(NodeProvider):  # type: ignore[misc]
    """Keeps the tags of each node, and the process that is the node."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._lock = RLock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tags: dict[str, dict[str, str]] = {
            HEAD: {
                TAG_RAY_NODE_KIND: NODE_KIND_HEAD,
                TAG_RAY_USER_NODE_TYPE: "head",
                TAG_RAY_NODE_NAME: HEAD,
                TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE,
            }
        }

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        return cluster_config

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        with self._lock:
            return [node for node, tags in self._tags.items() if tag_filters.items() <= tags.items()]

    def is_running(self, node_id: str) -> bool:
        return node_id in self._tags

    def is_terminated(self, node_id: str) -> bool:
        return node_id not in self._tags

    def node_tags(self, node_id: str) -> dict[str, str]:
        with self._lock:
            return dict(self._tags[node_id])

    def set_node_tags(self, node_id: str, tags: dict[str, str]) -> None:
        with self._lock:
            self._tags[node_id] |= tags

    def external_ip(self, node_id: str) -> str:
        return self.internal_ip(node_id)

    def internal_ip(self, node_id: str) -> str:
        return node_id

    def create_node_with_resources_and_labels(
        self, node_config: Any, tags: dict[str, str], count: int, resources: dict[str, float], labels: Any
    ) -> None:
        with self._lock:
            for _ in range(count):
                node = f"{HEAD[:51]}{len(self._processes) + 1:05d}"
                self._processes[node] = self._start(node, tags[TAG_RAY_USER_NODE_TYPE], resources)
                self._tags[node] = {**tags, TAG_RAY_NODE_NAME: node, TAG_RAY_NODE_STATUS: STATUS_UP_TO_DATE}
                self._note("started", node)

    def create_node(self, node_config: Any, tags: dict[str, str], count: int) -> None:
        raise NotImplementedError("the autoscaler gives resources")

    def terminate_node(self, node_id: str) -> None:
        with self._lock:
            process = self._processes[node_id]
            process.send_signal(signal.SIGTERM)
            process.wait(90)  # it drains for 30 s at most
            shutil.rmtree(temporary_folder(node_id), ignore_errors=True)
            del self._tags[node_id]
            self._note("ended", node_id)

    def _start(self, node: str, node_type: str, resources: dict[str, float]) -> subprocess.Popen[bytes]:
        command = [
            Path(sys.executable).with_name("ray"), "start", f"--address={self.provider_config['gcs_address']}",
            f"--num-cpus={int(resources.get('CPU', 0))}", "--num-gpus=0", "--object-store-memory=150000000",
            "--dashboard-agent-listen-port=0", f"--temp-dir={temporary_folder(node)}", "--block",
        ]  # fmt: skip
        environment = {**os.environ, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node, "RAY_NODE_TYPE_NAME": node_type}
        log = Path(self.provider_config["log"]).with_name(f"{node}.txt").open("wb")
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def _note(self, event: str, node: str) -> None:
        line = json.dumps({"time_s": time.time(), "event": event, "node": node, "pid": self._processes[node].pid})
        with Path(self.provider_config["log"]).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def temporary_folder(node: str) -> str:
    """Return where a node's files go: a short path, since the names of the sockets below it are bounded."""
    return f"/tmp/ray-{os.getpid()}-{node[-2:]}"
