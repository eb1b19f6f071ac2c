"""What many trials at once cost: `python -m benchmarks.crowd`.

64 trials of a method without torch run at the same time, each in a process of its own: none ends before all are there.
Each reports what its process takes, and whether it has torch. A few trials of the same method with torch stand beside.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.child import run_child
from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from benchmarks.waiting import HAS_TORCH, PROCESS_BYTES, WAITING, WAITING_WITH_TORCH
from data.ingest import ingest_serially
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.sweeps.journal import SweepRecord, read_events, replay

N_AT_ONCE: Final = 64
N_WITH_TORCH: Final = 2
SPEC: Final = """\
name: crowd
method: {method}
data: {{store: {store}}}
params: {{x: {{uniform: [0.0, 1.0]}}, n_at_once: {n_at_once}, meeting_place: {folder}/marks}}
search: {{metric: val/auroc, mode: max, sampler: random, scheduler: none}}
budget: {{trials: {n_at_once}, epochs: 1}}
resources: {{concurrency: {n_at_once}, cpus: {cpus}, first_report_timeout_s: 900}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""


@dataclass(frozen=True)
class Crowd:
    """One sweep that was run.

    Attributes:
        gathered_s: from the first trial's start to the last one's mark.
        process_bytes: of each trial's process, what it shares with no other.
        n_with_torch: processes that had torch.
    """

    gathered_s: float
    process_bytes: tuple[float, ...]
    n_with_torch: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="crowd-") as folder:
        store = Path(folder) / "store"
        ingest_serially(SyntheticReader(SyntheticConfig(task="af_segments", n_records=200)), store)
        crowd = run_crowd(store, Path(folder), WAITING.name, options.trials)
        torch = run_crowd(store, Path(folder), WAITING_WITH_TORCH.name, N_WITH_TORCH)
    without = Figure("processes without torch", "", (len(crowd.process_bytes) - crowd.n_with_torch,))
    figures = (
        without,
        Figure("a trial's process", "bytes", crowd.process_bytes, "unshared memory; a repeat a process"),
        Figure("a trial's process with torch", "bytes", torch.process_bytes, "the same method"),
        Figure("until all are there", "s", (crowd.gathered_s,), f"{options.trials} processes"),
    )
    return conclude(
        Result(f"{options.trials} trials at once", machine, figures, (Bar(without, ">=", options.trials),)), options
    )


def run_crowd(store: Path, folder: Path, method: str, n_at_once: int) -> Crowd:
    """Run a sweep of `n_at_once` trials that wait for one another, in a process of its own.

    Raises:
        RuntimeError: a trial did not complete.
    """
    own = folder / method
    (own / "marks").mkdir(parents=True)
    spec = own / "crowd.yaml"
    cpus = math.floor(1000 * len(os.sched_getaffinity(0)) / n_at_once) / 1000
    values = {"method": method, "store": store, "folder": own, "n_at_once": n_at_once, "cpus": cpus}
    spec.write_text(SPEC.format(**values), encoding="utf-8")
    run_child(["benchmarks.sweep_process", str(spec), "--runs", str(own / "runs")], own)
    (sweep,) = (own / "runs").iterdir()
    record = replay(read_events(sweep))
    last_mark_s = max(path.stat().st_mtime for path in (own / "marks").iterdir())
    return _crowd(record, last_mark_s, n_at_once)


def _crowd(record: SweepRecord, last_mark_s: float, n_at_once: int) -> Crowd:
    trials = record.trials.values()
    completed = [trial for trial in trials if trial.state == "COMPLETED"]
    if len(completed) != n_at_once:
        raise RuntimeError(f"of {n_at_once} trials {len(completed)} completed: {[trial.error for trial in trials]}")
    begin_s = min(trial.started_s for trial in trials if trial.started_s is not None)
    reports = [trial.reports[1] for trial in completed]
    return Crowd(
        last_mark_s - begin_s,
        tuple(report[PROCESS_BYTES] for report in reports),
        sum(report[HAS_TORCH] > 0 for report in reports),
    )


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crowd", description=__doc__)
    add_options(parser)
    parser.add_argument("--trials", type=int, default=N_AT_ONCE, help=f"at once (default {N_AT_ONCE})")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
