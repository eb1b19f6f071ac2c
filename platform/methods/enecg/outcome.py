"""What a sweep of `method: enecg` leaves beside every sweep's: its experts and mixings compared, at what cost.

Every row of the table is an ensemble trained as the best trial was, with its seed: each expert alone, the mixings, and
smaller ensembles. The oracle takes each test record's best expert. `result/` has the table as `experts.csv`, the
weights of every validation and test record as `weights.parquet`, and `costs.csv`.

N: records, E: experts, K: outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset import LabelSet
from platform.methods.enecg.figures import cost_figure, weights_figure
from platform.methods.enecg.runs import Run, Runs
from platform.methods.enecg.subsets import Subset, as_good_as, cheapest, drop_experts
from platform.methods.expert_cost import ExpertCost, measure_experts
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.pages.page import Cell, Picture, Table, picture
from platform.pages.units import format_number
from platform.search.study import spawn_seed
from trainables.bootstrap import N_RESAMPLES, bootstrap_intervals, draw_weights, percentile_interval
from trainables.checkpoint import write_whole
from trainables.enecg import MixingName
from trainables.evaluation import Evaluation
from trainables.macro_scores import macro_scores, resampled_macro
from trainables.metrics import Floats, score

MIXINGS: Final[Mapping[MixingName, str]] = {
    "uniform": "uniform mean", "static": "static weights", "gate": "gate", "stacking": "stacking"
}  # fmt: skip
METRICS: Final = ("mae", "mse", "accuracy", "macro_precision", "macro_recall", "macro_f1", "auroc", "map", "r2")
ORACLE: Final = "oracle"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        evaluation: on the test fold, or on validation where there is none.
        run: None for the oracle.
        ms: of the experts, for one record.
    """

    name: str
    evaluation: Evaluation
    intervals: Mapping[str, tuple[float, float]]
    run: Run | None
    ms: float


def conclude(sweep: FinishedSweep) -> Findings:
    """Train and test what the best trial is compared with, and write tables, weights and pictures."""
    runs = Runs(sweep)
    best = runs.best.config
    costs = measure_experts(best, runs.dataset.signal, runs.dataset.val, runs.device)
    alone = [
        runs.train(name, [expert], "uniform") for name, expert in zip(best.expert_names, best.experts, strict=True)
    ]
    mixings = _mixings(runs) if len(alone) > 1 else [runs.best]
    rows = _rows(runs, alone, mixings, costs)
    subsets = drop_experts(runs, alone, costs)
    gate = next((run for run in mixings if run.config.mixing == "gate"), runs.best)
    weights = _weights(runs, gate)
    _write_files(sweep.result, _to_frame(runs, rows), weights, subsets, runs.headline_metric)
    sentence = cheapest(subsets, runs.sign).sentence(subsets[0], runs.headline_metric)
    return Findings(
        lines=[
            f"experts and mixings: {sweep.result}/experts.csv; weights of every record: weights.parquet beside it",
            sentence,
        ],
        tables=[_table(runs, rows, sweep), _cost_table(costs), _subset_table(subsets, runs.headline_metric)],
        notes=[sentence],
        pictures=_pictures(runs, gate, weights, subsets),
    )


def _rows(runs: Runs, alone: Sequence[Run], mixings: Sequence[Run], costs: Sequence[ExpertCost]) -> list[Row]:
    of_experts = [_row(runs, run, [cost]) for run, cost in zip(alone, costs, strict=True)]
    of_mixings = [_row(runs, run, costs) for run in mixings]
    oracle = [_oracle(runs, of_experts)] if len(alone) > 1 else []
    return [*of_experts, *of_mixings, *oracle]


def _write_files(
    folder: Path, rows: pd.DataFrame, weights: pd.DataFrame, subsets: Sequence[Subset], metric: str
) -> None:
    costs = pd.DataFrame([each.to_row(metric) for each in subsets])
    write_whole(folder / "experts.csv", partial(rows.to_csv, index=False))
    write_whole(folder / "weights.parquet", partial(weights.to_parquet, index=False))
    write_whole(folder / "costs.csv", partial(costs.to_csv, index=False))


def _mixings(runs: Runs) -> list[Run]:
    """Return an ensemble of each mixing; the best trial is that of its own."""
    best = runs.best
    return [
        best if mixing == best.config.mixing else runs.train(name, best.config.experts, mixing)
        for mixing, name in MIXINGS.items()
    ]


def _row(runs: Runs, run: Run, costs: Sequence[ExpertCost]) -> Row:
    label_set, ms = runs.label_set, sum(cost.ms for cost in costs)
    result = runs.test(run, _slug(run.name))
    if result is None:
        evaluation, patient_ids = runs.evaluate(run, runs.dataset.val), runs.dataset.val.patient_ids
    else:
        assert runs.sweep.held_out is not None
        evaluation, patient_ids = runs.tested(run, _slug(run.name)), runs.sweep.held_out.split.patient_ids
    beta = run.config.threshold_beta
    return Row(run.name, evaluation, _intervals(runs, evaluation, label_set, beta, patient_ids), run, ms)


def _intervals(
    runs: Runs, evaluation: Evaluation, label_set: LabelSet, beta: float, patient_ids: NDArray[np.str_]
) -> dict[str, tuple[float, float]]:
    """Return the interval of every metric, over the same resamples for every row."""
    seed = spawn_seed(runs.sweep.spec.seed, 0, 3)
    intervals = bootstrap_intervals(evaluation, label_set, beta, patient_ids, seed)
    if macro_scores(evaluation, label_set):
        draws = draw_weights(evaluation, label_set, patient_ids, seed, N_RESAMPLES)
        blocks = [resampled_macro(evaluation, label_set, weights_RN) for weights_RN in draws]
        for name in blocks[0]:
            interval = percentile_interval(np.concatenate([block[name] for block in blocks]))
            assert interval is not None
            intervals[name] = interval
    return intervals


def _oracle(runs: Runs, alone: Sequence[Row]) -> Row:
    """Return the row of whoever knows which expert is best for each record: what a perfect gate could reach."""
    label_set = runs.label_set
    first, beta = alone[0].evaluation, runs.best.config.threshold_beta
    predicted_ENK = np.stack([row.evaluation.predicted_NK for row in alone])
    best_N = np.argmin(np.stack([record_losses(row.evaluation, label_set) for row in alone]), axis=0)
    predicted_NK = predicted_ENK[best_N, np.arange(predicted_ENK.shape[1])]
    thresholds_K = np.mean([row.evaluation.thresholds_K for row in alone], axis=0)
    scores = score(predicted_NK, first.labels_NK, label_set, thresholds_K, beta)
    evaluation = Evaluation(scores, thresholds_K, predicted_NK, first.labels_NK)
    held_out = runs.sweep.held_out
    patient_ids = (runs.dataset.val if held_out is None else held_out.split).patient_ids
    ms = sum(row.ms for row in alone)
    return Row(ORACLE, evaluation, _intervals(runs, evaluation, label_set, beta, patient_ids), None, ms)


def record_losses(evaluation: Evaluation, label_set: LabelSet) -> Floats:
    """Return how wrong an expert is about each record: minus the log-probability of its labels, or the mean absolute
    error of its known values."""
    predicted_NK, labels_NK = evaluation.predicted_NK, evaluation.labels_NK.astype(np.float64)
    if label_set.task == "regression":
        error_NK = np.abs(predicted_NK - labels_NK)
        return np.asarray(np.where(np.isnan(error_NK), 0.0, error_NK).mean(axis=1))
    if label_set.task == "multiclass":
        right_NK = np.take_along_axis(predicted_NK, labels_NK.astype(np.int64), axis=1)
    else:
        right_NK = np.where(labels_NK > 0.5, predicted_NK, 1 - predicted_NK)
    return np.asarray(-np.log(np.maximum(right_NK, 1e-300)).sum(axis=1))


def _slug(name: str) -> str:
    return name.split(" (", maxsplit=1)[0].replace(" ", "_").replace(", ", "-")


# ------------------------------------------------------------------ weights


def _weights(runs: Runs, run: Run) -> pd.DataFrame:
    """Return the experts' weights for every validation and test record, with its labels."""
    splits = {"val": runs.dataset.val}
    if runs.sweep.held_out is not None:
        splits["test"] = runs.sweep.held_out.split
    tables = []
    for name, split in splits.items():
        weight_NE = runs.gate_weights(run, split)
        labels_NK = split.labels_NK
        columns = {f"weight/{expert}": weight_NE[:, e] for e, expert in enumerate(run.config.expert_names)}
        names = [runs.label_set.name] if runs.label_set.task == "multiclass" else runs.label_set.names
        labels = {f"label/{label}": labels_NK[:, k] for k, label in enumerate(names)}
        ids = {"record_id": split.record_ids, "patient_id": split.patient_ids, "split": name}
        tables.append(pd.DataFrame({**ids, **labels, **columns}))
    return pd.concat(tables, ignore_index=True)


def groups_by_label(weights: pd.DataFrame, label_set: LabelSet) -> dict[str, pd.DataFrame]:
    """Return the records of each label: a class, whether one is there, or a quarter of a target's range of values."""
    groups: dict[str, pd.DataFrame] = {}
    if label_set.task == "multiclass":
        column = weights[f"label/{label_set.name}"]
        groups = {name: weights[column == k] for k, name in enumerate(label_set.names)}
    elif label_set.task == "regression":
        for name, unit in zip(label_set.names, label_set.units, strict=True):
            quarter = pd.qcut(weights[f"label/{name}"], 4, duplicates="drop")
            groups |= {
                f"{name} {format_number(interval.left, 3)} to {format_number(interval.right, 3)} {unit}": each
                for interval, each in weights.groupby(quarter, observed=True)
            }
    else:
        for name in label_set.names:
            column = weights[f"label/{name}"]
            groups |= {name: weights[column > 0.5], f"not {name}": weights[column <= 0.5]}
    return {name: each for name, each in groups.items() if len(each)}


def _pictures(runs: Runs, gate: Run, weights: pd.DataFrame, subsets: Sequence[Subset]) -> list[Picture]:
    names, groups = gate.config.expert_names, groups_by_label(weights, runs.label_set)
    means = {
        f"{label} ({len(group)})": [float(group[f"weight/{name}"].mean()) for name in names]
        for label, group in groups.items()
    }
    caption = f"mean weights of {gate.name} over the validation and test records of each label (records)"
    metric = runs.headline_metric
    return [
        picture("Experts' weights by label", caption, weights_figure(names, means)),
        picture(
            f"{metric} over cost",
            f"validation {metric} of ensembles of so many experts and of each alone (point at one for its names); "
            "cost: the experts' time for one record on this machine; dotted: what counts as good as the whole",
            cost_figure(subsets, metric, as_good_as(subsets[0], runs.sign)),
        ),
    ]


# ------------------------------------------------------------------ tables


def _table(runs: Runs, rows: Sequence[Row], sweep: FinishedSweep) -> Table:
    metrics = [name for name in METRICS if name in _scores(runs, rows[0])]
    where = "validation, as there is no test fold" if sweep.held_out is None else "test"
    caption = (
        f"trained as the best trial, with its seed; metrics on {where}, with 95 % intervals by patient; oracle: the "
        "best expert of each record; trainable, training and peak: of heads and mixing; ms a record: of the experts"
    )
    names = [name.replace("_", " ") for name in metrics]
    columns = ("ensemble", *names, "trainable", "training s", "peak MiB", "ms a record")
    return Table("Experts and mixings", caption, columns, [_cells(runs, row, metrics) for row in rows])


def _cells(runs: Runs, row: Row, metrics: Sequence[str]) -> list[Cell]:
    scores = _scores(runs, row)
    cells = [Cell(row.name)]
    for name in metrics:
        low, high = row.intervals.get(name, (float("nan"), float("nan")))
        value = scores.get(name, float("nan"))
        interval = f"{format_number(low, 3)} to {format_number(high, 3)}"
        cells.append(Cell(f"{format_number(value, 4)} ({interval})", value))
    if row.run is None:
        return [*cells, Cell("-"), Cell("-"), Cell("-"), Cell(f"{row.ms:.2f}", row.ms)]
    run = row.run
    return [
        *cells,
        Cell(f"{run.n_trainable:,}", run.n_trainable),
        Cell(f"{run.train_s:.1f}", run.train_s),
        Cell(f"{run.peak_memory_bytes / 2**20:.1f}", run.peak_memory_bytes),
        Cell(f"{row.ms:.2f}", row.ms),
    ]


def _scores(runs: Runs, row: Row) -> dict[str, float]:
    return {**row.evaluation.scores.macro, **macro_scores(row.evaluation, runs.label_set)}


def _to_frame(runs: Runs, rows: Sequence[Row]) -> pd.DataFrame:
    """Return the table with its numbers unrounded, and every metric that there is."""
    table = []
    for row in rows:
        values: dict[str, float | str | None] = {"ensemble": row.name}
        for name, value in _scores(runs, row).items():
            low, high = row.intervals.get(name, (None, None))
            values |= {name: value, f"{name} low": low, f"{name} high": high}
        if row.run is not None:
            values |= {
                "trainable_parameters": row.run.n_trainable,
                "train_s": row.run.train_s,
                "peak_memory_bytes": row.run.peak_memory_bytes,
            }
        table.append({**values, "experts_ms": row.ms})
    return pd.DataFrame(table)


def _cost_table(costs: Sequence[ExpertCost]) -> Table:
    rows = [
        [
            Cell(cost.name),
            Cell(f"{cost.n_parameters:,}", cost.n_parameters),
            Cell(f"{cost.ms:.2f}", cost.ms),
            Cell(f"{cost.peak_bytes / 2**20:.1f}", cost.peak_bytes),
        ]
        for cost in costs
    ]
    caption = "the frozen networks on this machine, 16 records at once; memory: tensors, weights included"
    return Table("Experts", caption, ("expert", "parameters", "ms a record", "peak MiB"), rows)


def _subset_table(subsets: Sequence[Subset], metric: str) -> Table:
    rows = [
        [Cell(each.name), Cell(f"{each.value:.4f}", each.value), Cell(f"{each.ms:.2f}", each.ms)] for each in subsets
    ]
    caption = "the expert that the whole misses least is dropped, again and again; each ensemble is trained anew"
    return Table("Fewer experts", caption, ("experts", f"val/{metric}", "ms a record"), rows)
