"""What a trial costs beyond its training: `python -m benchmarks.trial_overhead`.

Each contender runs a few and then many no-op trials of five reports, each time as a process of its own. The
seconds a trial are the slope between the two wall times, so that start-up and shut-down, the same in
both, drop out, and everything that grows with the trials stays in: proposals, reports, checkpoints, the
tracker's tail and the final report.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from benchmarks.child import run_child
from benchmarks.machine import read_machine
from benchmarks.noop import N_REPORTS, SPEC
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from benchmarks.stock_trials import N_SLOTS
from data.ingest import ingest_serially
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.sweeps.checkpoints import KEPT_TRIALS
from platform.sweeps.journal import SweepRecord, read_events, replay

MOST_S: Final = 0.2  # a trial of ours may cost


@dataclass(frozen=True)
class Contender:
    """A way to run no-op trials.

    Attributes:
        command: (number of trials, an empty folder) -> the module that runs them, with its arguments.
        check: refuses a run that did less than it was asked.
    """

    name: str
    note: str
    few: int
    many: int
    command: Callable[[int, Path], Sequence[str]]
    check: Callable[[int, Path], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="trial-overhead-") as folder:
        store = Path(folder) / "store"
        ingest_serially(SyntheticReader(SyntheticConfig(task="af_segments", n_records=200)), store)
        contenders = [_resized(contender, options.trials) for contender in _contenders(store)]
        contenders = contenders[:1] if options.ours_only else contenders
        slopes = measure(contenders, options.repeats, Path(folder))
    figures = tuple(Figure(each.name, "s/trial", slopes[each.name], each.note) for each in contenders)
    title = f"Seconds a no-op trial of {N_REPORTS} reports at {N_SLOTS} slots"
    return conclude(Result(title, machine, figures, (Bar(figures[0], "<=", MOST_S),)), options)


def measure(contenders: Sequence[Contender], repeats: int, folder: Path) -> dict[str, tuple[float, ...]]:
    """Return each contender's seconds a trial, repeat by repeat; repeats go round, so that all meet the same load."""
    slopes: dict[str, tuple[float, ...]] = {contender.name: () for contender in contenders}
    for repeat in range(1, repeats + 1):
        for contender in contenders:
            slopes[contender.name] += (_slope_s(contender, folder),)
            print(f"repeat {repeat}: {contender.name} {slopes[contender.name][-1]:.3f} s/trial", file=sys.stderr)
    return slopes


def _slope_s(contender: Contender, folder: Path) -> float:
    few_s, many_s = (_wall_s(contender, n_trials, folder) for n_trials in (contender.few, contender.many))
    return (many_s - few_s) / (contender.many - contender.few)


def _wall_s(contender: Contender, n_trials: int, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        wall_s = run_child(contender.command(n_trials, Path(own)), Path(own))
        contender.check(n_trials, Path(own))
    return wall_s


# ---------------------------------------------------------------------- contenders


def _contenders(store: Path) -> list[Contender]:
    def sweep(n_trials: int, folder: Path) -> Sequence[str]:
        spec = folder / "noop.yaml"
        values = {"name": "noop", "sampler": "tpe", "epochs": N_REPORTS, "n_slots": N_SLOTS}
        spec.write_text(SPEC.format(store=store, folder=folder, n_trials=n_trials, **values), encoding="utf-8")
        return ["benchmarks.sweep_process", str(spec), "--runs", str(folder / "runs")]

    return [
        Contender("this platform", "everything on, workers: 0", 50, 500, sweep, _check_sweep),
        _stock("function", "stock Tune function trial", "Tune as it comes, nothing kept, a process a trial", 5, 25),
        _stock("joined", "stock pieces joined", "OptunaSearch, ASHA, MLflow callback, reused processes", 20, 120),
        _stock("torch_trainer", "Tune + TorchTrainer(1)", "Ray's documented recipe", 1, 3),
        _stock("optuna", "Optuna loop on SQLite", "one process, nothing else kept", 50, 500),
    ]


def _stock(key: str, name: str, note: str, few: int, many: int) -> Contender:
    def command(n_trials: int, folder: Path) -> Sequence[str]:
        return ["benchmarks.stock_trials", key, str(n_trials), str(folder)]

    return Contender(name, note, few, many, command, check=lambda n_trials, folder: None)  # the process checks itself


def _resized(contender: Contender, many: int | None) -> Contender:
    return contender if many is None else replace(contender, few=1, many=min(many, contender.many))


def _check_sweep(n_trials: int, folder: Path) -> None:
    """Refuse a sweep that left anything out: a report, a trial in Optuna's file, a run or a metric in MLflow."""
    (sweep,) = (folder / "runs").iterdir()
    record = replay(read_events(sweep))
    found = {
        "trials completed": sum(trial.state == "COMPLETED" for trial in record.trials.values()),
        "reports": sum(len(trial.reports) for trial in record.trials.values()),
        "checkpoints kept": _n_checkpoints(record, sweep),
        "trials in study.db": _count(sweep / "study.db", "SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'"),
        "runs in MLflow": _count(folder / "mlflow.db", "SELECT COUNT(*) FROM runs WHERE status = 'FINISHED'"),
        "reports in MLflow": _count(folder / "mlflow.db", "SELECT COUNT(*) FROM metrics WHERE key = 'best_epoch'"),
    }
    n_reports = n_trials * N_REPORTS
    n_kept = min(n_trials, KEPT_TRIALS)
    asked = dict(zip(found, (n_trials, n_reports, n_kept, n_trials, n_trials + 1, n_reports), strict=True))
    if found != asked:
        raise RuntimeError(f"the sweep left something out: asked for {asked}, found {found}")


def _n_checkpoints(record: SweepRecord, sweep: Path) -> int:
    return sum((sweep / "trials" / trial / "best.safetensors").exists() for trial in record.trials)


def _count(database: Path, query: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        ((count,),) = connection.execute(query)
        return int(count)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trial_overhead", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="slopes of each contender (default: 3)")
    parser.add_argument("--ours-only", action="store_true", help="leave the others out: enough for --check")
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)  # smoke test: 1 and at most this many
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {options.repeats}")
    return options


if __name__ == "__main__":
    sys.exit(main())
