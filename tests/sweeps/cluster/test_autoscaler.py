"""Ray's autoscaler starts nodes for a sweep whose trials wait, and ends them when it is over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.cluster.loopback import free_port, running_head
from tests.sweeps.cluster.process_provider import HEAD
from tests.sweeps.workplace import TINY_CNN, Workplace, states, wait_until

EMPTY: dict[str, Any] = {
    **{key: {} for key in ("auth", "docker", "file_mounts")},
    **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")},
    **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
    "file_mounts_sync_continuously": False,
}


def cluster_config(address: str, log: Path) -> dict[str, Any]:
    """Return the autoscaler's file: a head without CPUs, and at most two workers of one."""
    return {
        **EMPTY,
        "cluster_name": "loopback",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.2,
        "provider": {
            "type": "external",
            "module": "tests.sweeps.cluster.process_provider.ProcessNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": address,
            "log": str(log),
        },
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            "worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
    }


def nodes_by_event(folder: Path, event: str) -> list[str]:
    path = folder / "nodes.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line["node"] for line in map(json.loads, lines) if line["event"] == event]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_autoscaler_starts_nodes_for_the_trials_that_wait_and_ends_them_when_idle(offline: Workplace) -> None:
    place = offline
    search = {"metric": "val/auroc", "mode": "max", "sampler": "random", "scheduler": "none"}
    spec = place.write(
        params={**TINY_CNN, "batch_size": 4, "lr": {"loguniform": [1e-4, 1e-2]}},
        search=search,
        budget={"trials": 4, "epochs": 6},
        resources={"concurrency": 2},
    )
    port, config = free_port(), place.folder / "autoscaler.yaml"
    log = place.folder / "nodes.jsonl"
    config.write_text(json.dumps(cluster_config(f"127.0.0.1:{port}", log)), encoding="utf-8")
    options = ("--num-cpus=0", "--dashboard-port=0", f"--autoscaling-config={config}")
    environment = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    with running_head(place.folder, port, *options, **environment) as address:
        process = place.start(spec, "--address", address)
        assert process.wait(600) == 0, place.output
        started = nodes_by_event(place.folder, "started")
        assert 1 <= len(started) <= 2
        assert wait_until(lambda: set(nodes_by_event(place.folder, "ended")) == set(started), 90, step_s=1)
        print(log.read_text())
    assert set(states(place.record()).values()) == {"COMPLETED"}
    check_aftermath(place)
    assert wait_until(lambda: not place.processes(), 60), place.processes()
