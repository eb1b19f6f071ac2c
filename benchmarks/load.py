"""What a large sweep costs its driver: `python -m benchmarks.load`.

No-op trials of five reports, as in `benchmarks.trial_overhead`. The seconds a trial between 200 and 1,000 trials are
set against those between 20 and 50: whatever grows with the trials so far shows as a ratio above one. Beside that: the
driver's memory a trial, a redraw of the live view and a report of the 1,000 trials.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.child import run_child
from benchmarks.machine import read_machine
from benchmarks.noop import METRIC, N_REPORTS, SPEC
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.ingest import ingest_serially
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.pages.live_view import Budget, LiveView
from platform.sweeps.journal import read_events, replay

COUNTS: Final = (20, 50, 200, 1000)
MOST_RATIO: Final = 1.2
MOST_BYTES: Final = 20_000  # of the driver's memory, a trial
MOST_REPORT_S: Final = 20.0
MOST_REDRAW_S: Final = 0.05  # a fifth of what the view allows itself between two
N_SLOTS: Final = 2


@dataclass(frozen=True)
class Sweep:
    """One sweep that was run.

    Attributes:
        looks: (trials ended, bytes of the driver) as it ran.
    """

    folder: Path
    wall_s: float
    looks: tuple[tuple[int, int], ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        store = Path(folder) / "store"
        ingest_serially(SyntheticReader(SyntheticConfig(task="af_segments", n_records=200)), store)
        counts = COUNTS if options.trials is None else (1, 2, 3, options.trials)
        sweeps = {n_trials: run_sweep(store, Path(folder), n_trials) for n_trials in counts}
        figures = measure([sweeps[n_trials] for n_trials in counts], counts)
    ratio, memory, redraw, report = figures
    bars = (
        Bar(ratio, "<=", MOST_RATIO),
        Bar(memory, "<=", MOST_BYTES),
        Bar(redraw, "<=", MOST_REDRAW_S),
        Bar(report, "<=", MOST_REPORT_S),
    )
    return conclude(Result(f"A sweep of {counts[-1]:,} no-op trials", machine, figures, bars), options)


def measure(sweeps: Sequence[Sweep], counts: Sequence[int]) -> tuple[Figure, ...]:
    """Return the figures of four sweeps of rising size."""
    few = (sweeps[1].wall_s - sweeps[0].wall_s) / (counts[1] - counts[0])
    many = (sweeps[3].wall_s - sweeps[2].wall_s) / (counts[3] - counts[2])
    print(f"{few:.3f} s/trial up to {counts[1]}, {many:.3f} s/trial up to {counts[3]:,}", file=sys.stderr)
    largest = sweeps[3].folder
    note = f"slope {counts[2]} to {counts[3]:,} over slope {counts[0]} to {counts[1]}"
    return (
        Figure("growth of a trial's cost", "", (many / few,), note),
        Figure("driver's memory", "bytes/trial", (bytes_a_trial(sweeps[3].looks),), "second half of the sweep"),
        Figure("redraw of the live view", "s", redraw_s(largest), "all trials in the record"),
        Figure("report", "s", (report_s(largest),), "from the last trial's end to the sweep's: test and export too"),
    )


def run_sweep(store: Path, folder: Path, n_trials: int) -> Sweep:
    """Run a sweep in a process of its own.

    Raises:
        RuntimeError: a trial did not complete, or a run is missing in MLflow.
    """
    own = folder / str(n_trials)
    own.mkdir()
    spec = own / "load.yaml"
    # A random sampler: what TPE costs grows with the trials, and is Optuna's.
    values = {"name": "load", "sampler": "random", "epochs": N_REPORTS, "n_slots": N_SLOTS}
    spec.write_text(SPEC.format(store=store, folder=own, n_trials=n_trials, **values), encoding="utf-8")
    looks = own / "memory.jsonl"
    command = ["benchmarks.sweep_process", "--memory", str(looks), str(spec), "--runs", str(own / "runs")]
    wall_s = run_child(command, own)
    (sweep,) = (own / "runs").iterdir()
    _check(sweep, own / "mlflow.db", n_trials)
    return Sweep(sweep, wall_s, _looks(looks, sweep))


def _looks(path: Path, sweep: Path) -> tuple[tuple[int, int], ...]:
    ends = sorted(event.time_s for event in read_events(sweep) if event.kind == "ended")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return tuple((sum(end <= line["time_s"] for end in ends), line["driver_bytes"]) for line in lines)


def bytes_a_trial(looks: Sequence[tuple[int, int]]) -> float:
    """Return by how much the driver grows with a trial, by a line through the second half of the sweep."""
    most = max(n for n, _ in looks)
    half = [(n, size) for n, size in looks if most // 2 <= n < most]
    counts, sizes = zip(*half, strict=True)
    return statistics.linear_regression(counts, sizes).slope


def redraw_s(sweep: Path) -> tuple[float, ...]:
    """Return the seconds of some redraws of a view that has seen the sweep."""
    record = replay(read_events(sweep))
    clock = iter(range(0, 10_000, 20)).__next__
    with open(os.devnull, "w") as nowhere:
        view = LiveView(
            "load", Budget(len(record.trials), 1), METRIC, "max", lambda: 0, console=Console(file=nowhere), clock=clock
        )
        view.update(record)
        return tuple(_seconds(lambda: view.update(record)) for _ in range(5))


def report_s(sweep: Path) -> float:
    """Return the seconds from the last trial's end to the sweep's."""
    times = {event.kind: event.time_s for event in read_events(sweep)}  # of the last event of each kind
    return times["closed"] - times["ended"]


def _seconds(work: Callable[[], object]) -> float:
    begin_s = time.perf_counter()
    work()
    return time.perf_counter() - begin_s


def _check(sweep: Path, database: Path, n_trials: int) -> None:
    record = replay(read_events(sweep))
    completed = sum(trial.state == "COMPLETED" for trial in record.trials.values())
    with closing(sqlite3.connect(database)) as connection:
        ((runs,),) = connection.execute("SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'")
    if (completed, runs) != (n_trials, n_trials + 1):
        raise RuntimeError(f"of {n_trials} trials {completed} completed, and MLflow has {runs} runs")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    add_options(parser)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)  # smoke test: 1, 2, 3 and this many
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
