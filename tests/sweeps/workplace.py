"""A place to run tiny sweeps in: stores of a few hundred short records, specs, and what the sweeps leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from platform import sweep
from platform.sweeps.journal import Event, SweepRecord, read_events, replay

ROOT = Path(__file__).parents[2]
MARK = "ECG_SWEEP_TEST"  # an environment variable by which a test finds the processes that it started

ONE_LEAD = {"task": "af_segments", "n_records": 300, "fs_hz": 50, "duration_s": 4}
TWELVE_LEADS = {"task": "morphology", "n_records": 400, "n_leads": 12, "fs_hz": 50, "duration_s": 3}
TINY_CNN = {"model": "cnn", "depth": 2, "channels": 4, "norm": "layer", "dropout": 0.0, "batch_size": 64}


@dataclass(frozen=True)
class Workplace:
    """A folder with stores, one spec at a time, the sweeps' folders and an MLflow database."""

    folder: Path  # of this test
    stores: Path  # shared by the session
    database: Path  # MLflow's

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.database}"

    def spec(self, **sections: Any) -> dict[str, Any]:
        """Return the values of a tiny spec; `sections` replace or add top-level keys."""
        values = {
            "name": "tiny",
            "seed": 3,
            "method": "supervised",
            "data": {"store": str(self.stores / "one_lead"), "preprocess": [{"zscore": {"per": "lead"}}]},
            "params": {**TINY_CNN, "lr": {"loguniform": [1e-4, 1e-2]}},
            "search": {"metric": "val/auroc", "mode": "max"},
            "budget": {"trials": 3, "epochs": 2},
            "resources": {"concurrency": 1},
            "tracking": {"uri": self.tracking_uri, "experiment": self.folder.name},
        }
        return {**values, **sections}

    def write(self, file: str = "tiny.yaml", **sections: Any) -> Path:
        """Write the spec of `spec`; JSON is YAML too."""
        path = self.folder / file
        path.write_text(json.dumps(self.spec(**sections), indent=1), encoding="utf-8")
        return path

    def sweep(self, *arguments: str | Path, **sections: Any) -> int:
        """Run a sweep in this process, with the spec of `sections`, and return its exit code."""
        return self.main(self.write(**sections), *arguments)

    def main(self, *arguments: str | Path) -> int:
        return sweep.main([*map(str, arguments), "--runs", str(self.runs)])

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "platform.sweep", *map(str, arguments), "--runs", str(self.runs)]

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start a sweep in a session of its own, as a terminal would; its output goes into `output.txt`."""
        environment = {**os.environ, MARK: str(self.folder), "RAY_ADDRESS": "local"}
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                self.command(*arguments), cwd=ROOT, env=environment, start_new_session=True, text=True,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def processes(self) -> list[psutil.Process]:
        """Return the living processes that `start` has started, directly or not."""
        return [process for process in psutil.process_iter() if _mark(process) == str(self.folder)]

    def events(self, name: str = "tiny-001") -> list[Event]:
        return list(read_events(self.runs / name))

    def record(self, name: str = "tiny-001") -> SweepRecord:
        return replay(self.events(name))

    def mlflow_runs(self, sweep_name: str = "tiny-001") -> dict[str, Run]:
        """Return the MLflow runs of a sweep by trial, its own run under ''."""
        client = MlflowClient(tracking_uri=self.tracking_uri)
        experiment = client.get_experiment_by_name(self.folder.name)
        if experiment is None:  # a sweep that was killed before the tracker's first turn
            return {}
        found = client.search_runs([experiment.experiment_id], f"tags.sweep = '{sweep_name}'")
        runs = {run.data.tags.get("trial", ""): run for run in found}
        assert len(runs) == len(found), "a trial has one run"
        return runs

    def listing(self) -> list[str]:
        """Return every file and folder here, for tests that nothing is written."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*"))


def _mark(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def wait_until(condition: Callable[[], Any], timeout_s: float, step_s: float = 0.05) -> bool:
    """Return whether `condition` came true in time."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        time.sleep(step_s)
    return bool(condition())


def states(record: SweepRecord) -> dict[str, str]:
    """Return the state of each trial."""
    return {name: trial.state for name, trial in record.trials.items()}


def times_left_out(reports: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """Return metrics without what depends on the machine."""
    return [
        {
            name: value
            for name, value in report.items()
            if name not in ("epoch_s", "peak_memory_bytes", "process_peak_bytes")
        }
        for report in reports
    ]
