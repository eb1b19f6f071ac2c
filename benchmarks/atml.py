"""What the ECM/ATML search costs here against the original's exhaustive order: `python -m benchmarks.atml SOURCE.zip`.

SOURCE holds segments in the layout of the IESD-2024 contest; folds are by subject. Two searches over the same data,
each of two phases, all four as sweeps of the shipped search spaces:

exhaustive: 8 learning rates (0.0015 to 0.005 by 0.0005) for each of 3 architectures, then all 25 width combinations of
AFNet at its best learning rate; every trial up to its last epoch, but for the original's early stopping.
search: `atml_phase1.yaml` (TPE, neighbourhoods of failures avoided, ASHA) and `atml_phase2.yaml` (sizes above the
target cost nothing, ASHA), AFNet at its best learning rate again.

Compared are the epochs spent, and the fronts of the validation criterion against ONNX bytes, by the best criterion
within a limit of size, averaged over the limits (on a log scale). A phase that is in --folder already is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.ingest import ingest_serially
from data.kinds.iesd import IesdConfig, build_reader
from platform.specs.quantities import LATENCY
from platform.sweeps.checkpoints import rank
from platform.sweeps.journal import SweepRecord, TrialRecord, read_events, replay
from platform.sweeps.pareto import front_of
from platform.sweeps.study_db import Objectives, outcome_quantities

ROOT: Final = Path(__file__).resolve().parents[1]
LEAST_FEWER_EPOCHS: Final = 3.0
LEAST_FRONT_RATIO: Final = 1.0
CRITERION: Final = "val/min_of-f1-accuracy-precision-recall"
OBJECTIVES: Final[Objectives] = [(CRITERION, "max")]
WIDENED: Final = "AFNet"
KIB: Final = 1024.0

_EVERY_POINT: Final = {
    "metric": "min_of(f1, accuracy, precision, recall)", "mode": "max", "sampler": "grid", "scheduler": "none",
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """One way to search: what it changes in the shipped search spaces."""

    name: str
    phase1: Mapping[str, object]
    phase2: Mapping[str, object]


EXHAUSTIVE: Final = Arm(
    "exhaustive",
    {"search": _EVERY_POINT, "params.lr": {"quniform": [0.0015, 0.005, 0.0005]}, "budget.trials": 24},
    {"search": _EVERY_POINT, "constraints": [], "stop_when": {}},
)
SEARCH: Final = Arm("search", {}, {"stop_when": {}})  # the front is wanted, not the first model that is good enough


@dataclass(frozen=True)
class Searched:
    """The two phases of an arm, as their journals tell them."""

    phase1: SweepRecord
    phase2: SweepRecord

    @property
    def epochs(self) -> int:
        return self.phase1.epochs + self.phase2.epochs

    @property
    def front(self) -> list[TrialRecord]:
        """The trials of both phases that none dominates in criterion and ONNX bytes, the best first."""
        trials = rank(self.phase1, OBJECTIVES) + rank(self.phase2, OBJECTIVES)
        front = front_of(trials, [*OBJECTIVES, ("onnx_bytes", "min")], OBJECTIVES)
        return sorted(front, key=criterion, reverse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="atml-") as temporary:
        folder = options.folder or Path(temporary)
        store = folder / "store"
        if not store.exists():
            ingest_serially(build_reader(IesdConfig(source=str(options.source.absolute()))), store)
        ours, theirs = (run_arm(arm, folder, options.epochs) for arm in (SEARCH, EXHAUSTIVE))
    print("\n".join(shown(ours)), end="\n\n")
    figures = measured(ours, theirs)
    bars = (Bar(figures[2], ">=", LEAST_FEWER_EPOCHS), Bar(figures[5], ">=", LEAST_FRONT_RATIO))
    title = f"ATML's two phases on {options.source.name}, at most {options.epochs} epochs a trial"
    return conclude(Result(title, machine, figures, bars), options)


def run_arm(arm: Arm, folder: Path, epochs: int) -> Searched:
    """Run both phases of an arm, unless they are in `folder` already."""
    phase1 = run_phase(arm, 1, folder, {"budget.epochs": epochs, **arm.phase1})
    winner = {"params.model": WIDENED, "params.lr": best_of(phase1, WIDENED).params["lr"]}
    return Searched(phase1, run_phase(arm, 2, folder, {"budget.epochs": epochs, **winner, **arm.phase2}))


def run_phase(arm: Arm, phase: int, folder: Path, overrides: Mapping[str, object]) -> SweepRecord:
    """Run one phase as a sweep of its own process, or take it up where an earlier run was broken off.

    Raises:
        subprocess.CalledProcessError: the sweep ended with an error, which it has printed.
    """
    name = f"{arm.name}_phase{phase}"
    run = folder / "runs" / f"{name}-001"
    if not (run / "report.html").exists():
        settings = {
            "name": name,
            "data.store": str(folder / "store"),
            "data.synthetic": None,
            "budget.wall_time_s": None,
            "tracking.uri": f"sqlite:///{folder.absolute() / 'mlflow.db'}",
            **overrides,
        }
        values = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        command = [sys.executable, "-m", "platform.sweep", str(ROOT / "searchspaces" / f"atml_phase{phase}.yaml")]
        command += ["--runs", str(folder / "runs"), *(part for value in values for part in ("--set", value))]
        subprocess.run([*command, *(["--resume", str(run)] if run.exists() else [])], cwd=ROOT, check=True)
    return replay(read_events(run))


def measured(ours: Searched, theirs: Searched) -> tuple[Figure, ...]:
    """Return the epochs and the fronts of both, and their ratios."""
    fewer = theirs.epochs / ours.epochs
    limits = size_limits([*ours.front, *theirs.front])
    worth, their_worth = (front_worth(searched.front, limits) for searched in (ours, theirs))
    return (
        Figure("epochs, exhaustive", "epochs", (theirs.epochs,)),
        Figure("epochs, search", "epochs", (ours.epochs,)),
        Figure("exhaustive / search", "", (fewer,), "times fewer epochs"),
        Figure("front, exhaustive", "", (their_worth,), "best criterion within a size, mean over sizes"),
        Figure("front, search", "", (worth,)),
        Figure("front: search / exhaustive", "", (worth / their_worth,)),
    )


def size_limits(trials: Sequence[TrialRecord], n_limits: int = 200) -> list[float]:
    """Return limits (bytes) from the largest of the fronts' sizes down to the smallest, evenly on a log scale."""
    sizes = [trial.static["onnx_bytes"] for trial in trials]
    return [float(limit) for limit in np.geomspace(min(sizes), max(sizes), n_limits)]


def front_worth(front: Sequence[TrialRecord], limits: Sequence[float]) -> float:
    """Return the best criterion of the models within a limit of size, 0 where there is none, averaged over limits."""
    within = [[criterion(trial) for trial in front if trial.static["onnx_bytes"] <= limit] for limit in limits]
    return sum(max(values, default=0.0) for values in within) / len(within)


def criterion(trial: TrialRecord) -> float:
    return outcome_quantities(trial, OBJECTIVES)[CRITERION]


def best_of(record: SweepRecord, model: str) -> TrialRecord:
    """Return the best trial of an architecture."""
    return next(trial for trial in rank(record, OBJECTIVES) if trial.params["model"] == model)


def shown(searched: Searched) -> Iterator[str]:
    """Yield phase 1's table, phase 2's front, and the smallest model as good as phase 1's AFNet; all on validation."""
    yield "phase 1: architecture, best lr, F1, F-beta, G, KiB, ms"
    for model in dict.fromkeys(trial.params["model"] for trial in rank(searched.phase1, OBJECTIVES)):
        yield f"  {model}, {best_of(searched.phase1, model).params['lr']:.4g}, {_row(best_of(searched.phase1, model))}"
    yield "phase 2, front: trial, s, f, smallest of four, F1, F-beta, G, KiB, ms"
    phase2 = rank(searched.phase2, OBJECTIVES)
    for trial in front_of(phase2, [*OBJECTIVES, ("onnx_bytes", "min")], OBJECTIVES):
        factors = f"{trial.params['channel_factor']}, {trial.params['fc_factor']}"
        yield f"  {trial.trial}, {factors}, {criterion(trial):.4f}, {_row(trial)}"
    bound = criterion(best_of(searched.phase1, WIDENED))
    good = [trial for trial in [*rank(searched.phase1, OBJECTIVES), *phase2] if criterion(trial) >= bound]
    smallest = min(good, key=lambda trial: trial.static["onnx_bytes"])
    yield f"smallest with at least phase 1's {WIDENED}, {bound:.4f}: {smallest.params['model']}, {_row(smallest)}"


def _row(trial: TrialRecord) -> str:
    known = outcome_quantities(trial, OBJECTIVES)
    scores = ", ".join(f"{known[f'val/{name}']:.4f}" for name in ("f1", "f_beta", "g_score"))
    latency = f"{known[LATENCY]:.3f}" if LATENCY in known else "not on the front"
    return f"{scores}, {known['onnx_bytes'] / KIB:.1f}, {latency}"


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.atml", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_options(parser)
    parser.add_argument("source", type=Path, metavar="SOURCE.zip", help="segments in the layout of the contest")
    parser.add_argument("--folder", type=Path, help="keeps the store and the sweeps, and takes up what is there")
    parser.add_argument("--epochs", type=int, default=54, help="of a trial, at most (default: 54)")
    options = parser.parse_args(arguments)
    if not options.source.exists():
        parser.error(f"{options.source} is not there; give a folder or a .zip of S<subject>-<rhythm>-<index>.txt files")
    if options.epochs < 3:
        parser.error(f"--epochs >= 3 must hold, the grace period of both phases, but got {options.epochs}")
    return options


if __name__ == "__main__":
    sys.exit(main())
