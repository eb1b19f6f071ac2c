"""Ctrl-C once ends a sweep in order, twice at once; either way it can be resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.sweeps.workplace import TINY_CNN, Workplace, states, wait_until

START_TIMEOUT_S = 240
SLOW_EPOCHS: dict[str, Any] = {  # a record a step: a second or two an epoch
    "params": {**TINY_CNN, "batch_size": 1, "depth": 5, "channels": 64, "lr": {"loguniform": [1e-4, 1e-2]}},
    "budget": {"trials": 2, "epochs": 200},
    "search": {"metric": "val/auroc", "mode": "max", "scheduler": "none"},
}


def wait_for_reports(place: Workplace, process: subprocess.Popen[str], n_reports: int) -> None:
    def reported() -> bool:
        return (place.runs / "tiny-001").exists() and place.record().epochs >= n_reports

    assert wait_until(lambda: reported() or process.poll() is not None, START_TIMEOUT_S), place.output
    assert process.poll() is None, place.output


@pytest.mark.timeout(900)
def test_ctrl_c_on_a_terminal_ends_the_sweep_in_order_and_it_goes_on_later(offline: Workplace) -> None:
    place, spec = offline, offline.write(**SLOW_EPOCHS)
    process = place.start(spec)
    wait_for_reports(place, process, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    assert process.wait(60) == 130, place.output
    assert f"go on with:  python -m platform.sweep {spec} --resume {place.runs / 'tiny-001'}" in place.output
    assert "Traceback" not in place.output
    before = place.record()
    assert states(before) == {"t0000": "RUNNING"}
    assert [event.body["reason"] for event in before.closed] == ["interrupted"]
    runs = place.mlflow_runs()
    assert {run.info.status for run in runs.values()} == {"KILLED"}
    assert wait_until(lambda: not place.processes(), 15), place.processes()

    # Resumed; twice, to the driver alone, stops at once.
    process = place.start(spec, "--resume", place.runs / "tiny-001")
    wait_for_reports(place, process, before.epochs + 1)
    process.send_signal(signal.SIGINT)
    assert wait_until(lambda: place.output.count("interrupted: waiting") == 2, 10, step_s=0.01)
    process.send_signal(signal.SIGINT)
    begin_s = time.monotonic()
    assert process.wait(60) == 130, place.output
    took_s = time.monotonic() - begin_s
    assert took_s < 10, f"the second Ctrl-C took {took_s:.1f} s"
    assert place.output.splitlines()[-1].startswith("stopped; "), place.output
    after = place.record()
    assert states(after) == {"t0000": "RUNNING"}
    assert after.trials["t0000"].attempts == 2
    assert sorted(after.trials["t0000"].reports) == list(range(1, after.epochs + 1))
    assert {name: run.info.run_id for name, run in place.mlflow_runs().items()} == {
        name: run.info.run_id for name, run in runs.items()
    }
    assert {run.info.status for run in place.mlflow_runs().values()} == {"KILLED"}
    assert wait_until(lambda: not place.processes(), 15), place.processes()
