"""What the report's Pareto page draws: every trial as a point of all its numbers; a reader picks two or three axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from platform.specs.quantities import LATENCY, Mode, better
from platform.sweeps.journal import SweepRecord, TrialRecord
from platform.sweeps.leaderboard import RANKED
from platform.sweeps.study_db import Objectives, outcome_quantities

_IDLE = ("epoch_s", "lr", "best_epoch")  # no reader trades a model's worth for these


@dataclass(frozen=True)
class ParetoPage:
    """The data of the page.

    Attributes:
        axes: quantity -> which way it is better, the likeliest first.
        start: the axes that the page opens with: x, y, and z or "".
        points: a trial each: its id, state, whether it keeps the constraints, and its numbers by quantity.
        chosen: the trial whose model is in `best/`, or "".
    """

    axes: Mapping[str, Mode]
    start: tuple[str, str, str]
    points: Sequence[Mapping[str, Any]]
    chosen: str

    @property
    def data(self) -> dict[str, Any]:
        """The page as its script takes it."""
        return {"axes": dict(self.axes), "start": self.start, "points": self.points, "chosen": self.chosen}


def pareto_page(record: SweepRecord, objectives: Objectives, chosen: str) -> ParetoPage | None:
    """Build the page from the COMPLETED and STOPPED trials, at their best epochs; None below two axes."""
    trials = [trial for trial in record.trials.values() if trial.state in RANKED]
    known = [(trial, _numbers(trial, objectives)) for trial in trials]
    axes = _axes([numbers for _, numbers in known], objectives)
    if len(axes) < 2:
        return None
    points = [
        {"trial": trial.trial, "state": trial.state, "feasible": trial.is_feasible, "values": numbers}
        for trial, numbers in known
    ]
    return ParetoPage(axes, _start(list(axes), objectives), points, chosen)


def _numbers(trial: TrialRecord, objectives: Objectives) -> dict[str, float]:
    quantities = {**outcome_quantities(trial, objectives), "epochs": float(trial.epochs)}
    if trial.duration_s is not None:
        quantities["duration_s"] = trial.duration_s
    return {name: float(f"{value:.6g}") for name, value in quantities.items() if _is_shown(name)}


def _is_shown(name: str) -> bool:
    return not name.startswith(("train/", "best/")) and name not in _IDLE


def _axes(known: Sequence[Mapping[str, float]], objectives: Objectives) -> dict[str, Mode]:
    """Return the quantities that at least one trial has and that are not the same for all."""
    first = [metric for metric, _ in objectives] + ["onnx_bytes", LATENCY, "parameters"]
    names = dict.fromkeys([*first, *sorted({name for numbers in known for name in numbers})])
    modes = dict(objectives)
    shown = [name for name in names if len({numbers[name] for numbers in known if name in numbers}) > 1]
    return {name: modes.get(name, "min" if name == "epochs" else better(name)) for name in shown}


def _start(axes: Sequence[str], objectives: Objectives) -> tuple[str, str, str]:
    """Open with the first objective over the second, or over the size: what costs stands on x."""
    wanted = [metric for metric, _ in objectives if metric in axes]
    others = [name for name in axes if name not in wanted]
    y, x, *rest = [*wanted, *others]
    return x, y, rest[0] if len(wanted) > 2 else ""
