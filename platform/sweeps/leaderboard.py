"""The leaderboard of a sweep, and the Pareto front of several objectives: views of the journal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from platform.specs.quantities import LATENCY, Mode
from platform.sweeps.journal import SweepRecord, TrialRecord
from platform.sweeps.spread import Spread
from trainables.degeneracy import eligible_epochs
from trainables.fold_metrics import split_by_fold

RANKED = ("COMPLETED", "STOPPED")
_ORDER = {"COMPLETED": 0, "STOPPED": 0, "RUNNING": 1, "PROPOSED": 2, "FAILED": 3}
_SIZES = ("parameters", "onnx_bytes", "peak_memory_bytes", "process_peak_bytes")
_WHOLE = ("rank", "best_epoch", "epochs", *_SIZES)


def leaderboard(record: SweepRecord, metric: str, mode: Mode) -> pd.DataFrame:
    """Rank the trials of a sweep by their best value of `metric`.

    COMPLETED and STOPPED trials have a rank, those that keep every constraint before those that do not;
    live and failed ones follow without a rank. Of equal values the smaller ONNX file is first.

    Returns:
        one row a trial: rank, trial, state, feasible, `metric`, best_epoch, epochs, duration_s, parameters,
        onnx_bytes, latency_ms, peak_memory_bytes (tensors'), process_peak_bytes, and a column `params.<key>` for every
        parameter. Where trials have folds, `metric` is their mean, and `folds.sd`, `folds.low` and `folds.high` its
        deviation and 95 % interval; where there are repeats, `repeats.mean` and so on say the same of theirs,
        `repeats.test.mean` of their tests.
    """
    sign = -1.0 if mode == "max" else 1.0

    def place(row: dict[str, Any]) -> tuple[int, bool, float, int]:
        value, size = row[metric], row["onnx_bytes"] or 0
        return _ORDER[row["state"]], not row["feasible"], np.inf if value is None else sign * value, size

    rows = sorted((_row(record, trial, metric, mode) for trial in record.trials.values()), key=place)
    ranked = [row for row in rows if row["state"] in RANKED and row[metric] is not None]
    for rank, row in enumerate(ranked, start=1):
        row["rank"] = rank
    table = pd.DataFrame(rows, columns=_columns(record, rows, metric))
    return table.astype(dict.fromkeys(_WHOLE, "Int64"))


def write_leaderboard(path: Path, table: pd.DataFrame) -> None:
    """Write `table` as CSV; a reader sees the old file or the new one, never a part."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    table.to_csv(fresh, index=False)
    fresh.replace(path)


def pareto_front(values_NM: NDArray[np.float64], directions: Sequence[Mode]) -> NDArray[np.bool_]:
    """Return a mask (N,) of the points that no other point dominates.

    A point dominates another if it is at least as good in all M objectives and better in one; of equal
    points all are in the front. Give it COMPLETED trials only: a stopped trial's values are early ones.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.
    """
    if values_NM.ndim != 2 or values_NM.shape[1] != len(directions):
        raise ValueError(f"values must be (points, {len(directions)} objectives), but got shape {values_NM.shape}")
    if not np.isfinite(values_NM).all():
        raise ValueError("values must be finite; leave out trials without a value")
    costs_NM = values_NM * [-1.0 if direction == "max" else 1.0 for direction in directions]
    unique_UM, inverse_N = np.unique(costs_NM, axis=0, return_inverse=True)
    keep_U = np.ones(len(unique_UM), dtype=bool)
    # In the sorted order of `unique` a point is only ever dominated by an earlier one.
    for index in range(len(unique_UM)):
        if keep_U[index]:
            dominated_U = (unique_UM[index] <= unique_UM).all(axis=1)
            dominated_U[index] = False
            keep_U &= ~dominated_U
    return keep_U[inverse_N.reshape(-1)]


def best_epoch(trial: TrialRecord, metric: str, mode: Mode) -> int | None:
    """Return the first epoch with the trial's best value of `metric`, or None if it never reported it."""
    epochs = [epoch for epoch in eligible_epochs(trial.reports) if metric in trial.reports[epoch]]
    sign = 1.0 if mode == "max" else -1.0
    return max(epochs, key=lambda epoch: sign * trial.reports[epoch][metric], default=None)


def _columns(record: SweepRecord, rows: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    head = ["rank", "trial", "state", "feasible", metric, "best_epoch", "epochs", "duration_s"]
    params = dict.fromkeys(f"params.{key}" for trial in record.trials.values() for key in trial.params)
    spreads = dict.fromkeys(key for row in rows for key in row if key.startswith(("folds.", "repeats.")))
    return [*head, *spreads, *_SIZES, LATENCY, *params]


def _row(record: SweepRecord, trial: TrialRecord, metric: str, mode: Mode) -> dict[str, Any]:
    epoch = best_epoch(trial, metric, mode)
    known = {**trial.static, **trial.last}
    sizes = {key: _whole(known.get(key)) for key in _SIZES}
    return {
        "rank": None,
        "trial": trial.trial,
        "state": trial.state,
        "feasible": trial.is_feasible,
        metric: None if epoch is None else trial.reports[epoch][metric],
        "best_epoch": epoch,
        "epochs": trial.epochs,
        "duration_s": trial.duration_s,
        **_spread_cells("folds", fold_values(trial, metric, mode)),
        **_repeat_cells(record, trial, metric, mode),
        **sizes,
        LATENCY: trial.measured.get(LATENCY),
        **{f"params.{key}": value for key, value in trial.params.items()},
    }


def fold_values(trial: TrialRecord, metric: str, mode: Mode) -> list[float]:
    """Return what each fold of a trial measured at the trial's best epoch; empty without folds."""
    epoch = best_epoch(trial, metric, mode)
    _, folds = split_by_fold(trial.reports[epoch] if epoch is not None else {})
    return [values[metric] for _, values in sorted(folds.items()) if metric in values]


def _repeat_cells(record: SweepRecord, trial: TrialRecord, metric: str, mode: Mode) -> dict[str, float]:
    well = [each for each in record.repeats_of(trial.trial) if each.state == "COMPLETED"]
    values = [each.best(metric, maximise=mode == "max") for each in well]
    looks = [event.body["repeat"] for event in record.tested if "repeat" in event.body]
    tests = {look["trial"]: look["metrics"].get(metric.removeprefix("val/")) for look in looks}
    tested = [tests.get(each.trial) for each in well]
    return {
        **_spread_cells("repeats", [value for value in values if value is not None], with_mean=True),
        **_spread_cells("repeats.test", [value for value in tested if value is not None], with_mean=True),
    }


def _spread_cells(name: str, values: Sequence[float], with_mean: bool = False) -> dict[str, float]:
    if len(values) < 2:
        return {}
    spread = Spread.of(values)
    mean = {f"{name}.mean": spread.mean} if with_mean else {}
    return {**mean, f"{name}.sd": spread.sd, f"{name}.low": spread.low, f"{name}.high": spread.high}


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
