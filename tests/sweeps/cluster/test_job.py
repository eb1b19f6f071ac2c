"""`ray job submit` runs a sweep on a cluster that asks for a token, and goes on with one whose job was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from platform.cluster import SETTINGS
from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.cluster.loopback import RAY, free_port, running_head
from tests.sweeps.workplace import ROOT, TINY_CNN, Workplace, states, wait_until

SLOW = {**TINY_CNN, "batch_size": 4, "lr": {"loguniform": [1e-4, 1e-2]}}


def ray_job(dashboard: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `ray job ...` against the dashboard at a port, from the project's root."""
    action, *rest = arguments
    command = [RAY, "job", action, "--address", f"http://127.0.0.1:{dashboard}", *rest]
    variables = {**os.environ, **SETTINGS, "RAY_ADDRESS": "", **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_runs_a_sweep_and_another_goes_on_with_it(offline: Workplace) -> None:
    place, port, dashboard = offline, free_port(), free_port()
    spec = place.write(params=SLOW, storage=str(place.folder), budget={"trials": 4, "epochs": 6}, resources={})
    sweep = ("--working-dir", ".", "--", "python", "-m", "platform.sweep", str(spec))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running_head(place.folder, port, "--num-cpus=2", f"--dashboard-port={dashboard}", PATH=path):
        refused = ray_job(dashboard, "submit", *sweep, RAY_AUTH_TOKEN="0" * 64)
        assert refused.returncode != 0
        assert "token" in refused.stdout + refused.stderr
        begun = ray_job(dashboard, "submit", "--no-wait", "--submission-id", "first", *sweep)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        assert wait_until(lambda: (place.runs / "tiny-001").exists() and place.record().epochs >= 3, 240), ray_job(
            dashboard, "logs", "first"
        ).stdout
        stopped = ray_job(dashboard, "stop", "first")
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert set(states(place.record()).values()) != {"COMPLETED"}, "there is something to go on with"
        resumed = ray_job(dashboard, "submit", *sweep, "--resume")
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    record = place.record()
    assert len(record.sessions) == 2
    assert len(record.trials) == 4
    assert set(states(record).values()) <= {"COMPLETED", "STOPPED"}
    check_aftermath(place)
    assert wait_until(lambda: not place.processes(), 60), place.processes()
