"""The code travels as Ray's `working_dir` on a cluster; then every worker's `platform` is ours."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.sweeps.workplace import ROOT, Workplace, states

SCRIPT = """
from platform.cluster import SETTINGS
from platform.sweep import main
import os, sys, ray
os.environ.update(SETTINGS)
excludes = [".venv", ".git", "runs", "stores", "mlruns", "mlflow.db", "tests", "docs"]
ray.init(address="local", num_cpus=2, runtime_env={"working_dir": os.getcwd(), "excludes": excludes},
         log_to_driver=False)

@ray.remote
def platform_in_a_worker():
    import platform
    return platform.__file__, platform.system()

print("WORKER", *ray.get(platform_in_a_worker.remote()))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_runs_with_rays_working_dir(offline: Workplace) -> None:
    arguments = [str(offline.write(budget={"trials": 2, "epochs": 1})), "--runs", str(offline.runs)]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (file, system) = next(line.split()[1:] for line in result.stdout.splitlines() if line.startswith("WORKER"))
    assert file.endswith("/platform/__init__.py"), "the worker's platform is the project's"
    assert system == "Linux"
    assert set(states(offline.record()).values()) <= {"COMPLETED", "STOPPED"}
