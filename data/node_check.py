"""Whether every node of a cluster sees the same files: a store, and the folder in which sweeps are kept."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.bucket import fetch, remove, send
from data.store import MANIFEST_NAME, read_manifest

PROBE_NAME = ".seen-by-all-nodes"


def check_nodes(store: Path, fingerprint: str, folder: Path) -> None:
    """Ask every living node whether it has the store, and sees what this process writes to `folder`.

    Raises:
        ValueError: one does not; one line, with the way out.
    """
    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    token = secrets.token_hex(8)
    path = folder.absolute() / PROBE_NAME
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(token, encoding="utf-8")
    try:
        send(path)
        faults = _ask(nodes, store.absolute(), fingerprint, path, token)
    finally:
        remove(path)
    if faults:
        address, fault = next(iter(faults.items()))
        others = f" (and {len(faults) - 1} more of {len(nodes)} nodes)" if len(faults) > 1 else ""
        raise ValueError(
            f"node {address}{others}: {fault}; keep stores and sweeps in a folder that every node has, and name it "
            "with --set storage=/that/folder"
        )


def _ask(nodes: Iterable[dict[str, Any]], store: Path, fingerprint: str, path: Path, token: str) -> dict[str, str]:
    """Return what is wrong, by the node's address."""
    task = ray.remote(num_cpus=0, max_retries=0)(node_fault)
    answers = {
        f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}": task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(store, fingerprint, path, token)
        for node in nodes
    }
    return {address: fault for address, answer in answers.items() if (fault := ray.get(answer))}


def node_fault(store: Path, fingerprint: str, path: Path, token: str) -> str:
    """Say what this node lacks; empty: nothing."""
    fetch(store / MANIFEST_NAME)  # shards come as they are read
    fetch(path)
    try:
        found = read_manifest(store).fingerprint
    except ValueError:
        return f"no store at {store}"
    if found != fingerprint:
        return f"the store at {store} is another one (fingerprint {found[:12]}, not {fingerprint[:12]})"
    if not path.exists() or path.read_text(encoding="utf-8") != token:
        return f"{path.parent}, where sweeps are kept, is not the one that the driver writes to"
    return ""
