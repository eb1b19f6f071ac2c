"""The report of a sweep: one HTML file that holds all it needs, plotly's script included, and reads nothing else."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from platform.evaluation.test_result import TestResult
from platform.pages import figures
from platform.pages.figures import Objectives
from platform.pages.page import Card, Cell, Picture, Table, picture, render_page
from platform.pages.pareto_page import pareto_page
from platform.pages.units import format_bytes, format_duration
from platform.specs.quantities import Mode
from platform.sweeps.journal import ENDED, SweepRecord, TrialRecord
from platform.sweeps.leaderboard import best_epoch, leaderboard

MIN_TRIALS_FOR_IMPORTANCE = 10


@dataclass(frozen=True)
class ReportInput:
    """All that a report shows.

    Attributes:
        record: the journal, read whole.
        study: Optuna's study of the same record, for the parameters' importance; None leaves that out.
        objectives: (metric, "max" or "min"); trials are ranked by the first.
        most_epochs: the most epochs that the budget could have cost.
        title: the sweep's name.
        command: the command that reproduces it.
        header: method, store, fingerprint, seed, versions and so on, in the order to show.
        spec_text: the resolved spec.
        choice: the trial whose model is in `best/`; empty where there is none.
        test: the look at the test fold, if there was one.
        tables: what else was found, shown behind the test.
        pictures: of the same.
        notes: sentences about the data or the sweep that a reader must know.
    """

    record: SweepRecord
    study: optuna.Study | None
    objectives: Objectives
    most_epochs: int
    title: str
    command: str
    header: Mapping[str, str]
    spec_text: str
    choice: str = ""
    test: TestResult | None = None
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()


def write_report(path: Path, content: ReportInput) -> None:
    """Write the report; a reader sees the old file or the new one, never a part."""
    html = render_report(content)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(html, encoding="utf-8")
    fresh.replace(path)


def render_report(content: ReportInput) -> str:
    """Return the report as HTML; everything that comes from data is escaped."""
    record, (metric, mode) = content.record, content.objectives[0]
    best = best_trial(record, metric, mode)
    importances, why_absent = _importances(content)
    shown_params = _varying_params(record, importances)
    return render_page(
        "outcomes/report.html.jinja",
        title=content.title,
        subtitle=_subtitle(record),
        header=content.header,
        command=content.command,
        cards=_cards(content, best),
        history=picture(
            "Optimisation history",
            f"best {metric} of each trial, and of all so far",
            figures.history(record, metric, mode),
        ),
        curves=picture(
            "Learning curves",
            f"{metric} of every trial; point at a line for its trial",
            figures.learning_curves(record, metric, best),
        ),
        parallel=_parallel(record, metric, mode, shown_params),
        importance=_importance(importances, why_absent, metric),
        pareto=pareto_page(record, content.objectives, content.choice),
        test=_test(content.test),
        test_metrics=_test_metrics(content.test),
        tables=content.tables,
        pictures=content.pictures,
        leaderboard=_leaderboard(record, metric, mode),
        failed=_failed(record),
        notes=content.notes,
        spec_text=content.spec_text,
    )


def best_trial(record: SweepRecord, metric: str, mode: Mode) -> TrialRecord | None:
    """Return the first trial of the leaderboard, or None if none is both ranked and feasible."""
    table = leaderboard(record, metric, mode)
    first = table[table["rank"].notna() & table["feasible"].astype(bool)].head(1)
    return record.trials[str(first["trial"].iloc[0])] if len(first) else None


# ---------------------------------------------------------------------- summary


def _subtitle(record: SweepRecord) -> str:
    n_processes = len(record.opened)
    resumed = f", taken up {n_processes} times" if n_processes > 1 else ""
    elapsed_s = sum(end - start for start, end in record.sessions)
    return f"{len(record.trials)} trials in {format_duration(elapsed_s)}{resumed}"


def _cards(content: ReportInput, best: TrialRecord | None) -> list[Card]:
    record, (metric, mode) = content.record, content.objectives[0]
    states = [trial.state for trial in record.trials.values()]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in ENDED)
    if record.infeasible:
        counts += f", {len(record.infeasible)} proposals infeasible"
    saved = 1 - record.epochs / content.most_epochs if content.most_epochs else 0.0
    epochs = f"of at most {content.most_epochs:,}: {saved:.0%} saved"
    cards = [_best_card(best, metric, mode)]
    if content.test is not None:
        cards += [_test_card(content.test, name) for name in _headline(content.test, metric)]
    return [*cards, Card("trials", str(len(states)), counts), Card("epochs trained", f"{record.epochs:,}", epochs)]


def _best_card(best: TrialRecord | None, metric: str, mode: Mode) -> Card:
    if best is None:
        return Card(f"best {metric}", "none", "no trial that keeps the constraints completed or was stopped")
    epoch = best_epoch(best, metric, mode)
    assert epoch is not None, "a ranked trial has reported"
    return Card(f"best {metric}", f"{best.reports[epoch][metric]:.4f}", f"{best.trial}, epoch {epoch}, {best.state}")


def _headline(test: TestResult, metric: str) -> list[str]:
    """Return the two test metrics to show large: the objective's own, then those with an interval."""
    own = metric.rpartition("/")[2]
    return sorted(test.metrics, key=lambda name: (name != own, name not in test.intervals))[:2]


def _test_card(test: TestResult, name: str) -> Card:
    return Card(f"test/{name}", f"{test.metrics[name]:.4f}", _interval(test, name) or "without an interval")


# ---------------------------------------------------------------------- pictures


def _importances(content: ReportInput) -> tuple[dict[str, float], str]:
    """Return each parameter's share and an empty string, or nothing and why."""
    if content.study is None:
        return {}, "No study was given."
    completed = content.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(completed) < MIN_TRIALS_FOR_IMPORTANCE:
        return {}, f"Needs {MIN_TRIALS_FOR_IMPORTANCE} completed trials, and there are {len(completed)}."
    values = {trial.values[0] for trial in completed}
    shared = set.intersection(*(set(trial.params) for trial in completed))
    if not shared or len(values) < 2:
        return {}, "No parameter is in every trial." if not shared else "All completed trials have the same value."
    sign = -1.0 if content.objectives[0][1] == "max" else 1.0
    with warnings.catch_warnings():  # it warns that low targets count as good, which the sign sees to
        warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes", category=UserWarning)
        return get_param_importances(
            content.study,
            evaluator=PedAnovaImportanceEvaluator(),
            params=sorted(shared),
            target=lambda trial: sign * trial.values[0],
        ), ""


def _importance(importances: Mapping[str, float], why_absent: str, metric: str) -> Picture:
    if not importances:
        return picture("Parameter importance", why_absent, None)
    caption = (
        f"share in what sets the better completed trials apart in {metric} (PED-ANOVA); parameters that only "
        "some trials have are left out"
    )
    return picture("Parameter importance", caption, figures.importance(importances))


def _varying_params(record: SweepRecord, importances: Mapping[str, float]) -> list[str]:
    """Return the sampled parameters with more than one value among ranked trials, the important ones first."""
    ranked = [trial for trial in record.trials.values() if trial.state in ("COMPLETED", "STOPPED")]
    names = dict.fromkeys([*importances, *(name for trial in ranked for name in trial.sampled)])
    return [name for name in names if len({str(trial.sampled.get(name)) for trial in ranked}) > 1]


def _parallel(record: SweepRecord, metric: str, mode: Mode, names: Sequence[str]) -> Picture:
    title = "Parallel coordinates"
    figure = figures.parallel_coordinates(record, metric, mode, names) if names else None
    if figure is None:
        return picture(title, "Needs two ranked trials that differ in a sampled parameter.", None)
    caption = f"completed and stopped trials, coloured by {metric}; drag along an axis to select"
    if len(names) > figures.MAX_AXES:
        caption += f"; {figures.MAX_AXES} of {len(names)} parameters"
    return picture(title, caption, figure)


def _test(test: TestResult | None) -> Picture | None:
    if test is None:
        return None
    if not test.is_classification:
        figure = figures.predictions(test.labels_NK, test.probabilities_NK, test.label_names)
        return picture("Predictions on test", f"{len(test.labels_NK):,} records", figure)
    shown = figures.labels_with_roc(test.labels_NK)
    caption = f"model in best/, {len(test.labels_NK):,} records; area under each curve in the legend"
    if len(shown) < len(test.label_names):
        caption += f"; {len(test.label_names) - len(shown)} labels without both classes, or rare, are left out"
    return picture("ROC on test", caption, figures.roc_curves(test.labels_NK, test.probabilities_NK, test.label_names))


# ---------------------------------------------------------------------- tables


def _test_metrics(test: TestResult | None) -> Table | None:
    if test is None:
        return None
    rows = [
        [Cell(f"test/{name}"), Cell(f"{value:.4f}", value), Cell(_interval(test, name))]
        for name, value in test.metrics.items()
    ]
    caption = "of the model in best/, evaluated on the test fold"
    return Table("Test metrics", caption, ("metric", "value", "95 % interval"), rows)


def _interval(test: TestResult, name: str) -> str:
    low_high = test.intervals.get(name)
    return f"{low_high[0]:.4f} to {low_high[1]:.4f}" if low_high else ""


def _leaderboard(record: SweepRecord, metric: str, mode: Mode) -> Table:
    table = leaderboard(record, metric, mode)
    constant = [name for name in table.columns if name.startswith("params.") and table[name].map(str).nunique() == 1]
    constant += ["feasible"] if len(table) and table["feasible"].all() else []
    shown = table[_read_first([name for name in table.columns if name not in constant])]
    caption = "click a column to sort; STOPPED trials were stopped early by the scheduler"
    fixed = [name.removeprefix("params.") for name in constant if name.startswith("params.")]
    if fixed:
        caption += f"; the same in all trials, and in leaderboard.csv: {', '.join(fixed)}"
    rows = [
        [_cell(name, value, metric) for name, value in zip(shown.columns, row, strict=True)]
        for row in shown.itertuples(index=False, name=None)
    ]
    columns = [name.removeprefix("params.") for name in shown.columns]
    return Table("Leaderboard", caption, columns, rows, [f"trial-{trial}" for trial in table["trial"]])


def _read_first(columns: Sequence[str]) -> list[str]:
    """Put the parameters before the sizes, which a narrow screen may cut off."""
    sizes = ("duration_s", "parameters", "onnx_bytes", "latency_ms", "peak_memory_bytes", "process_peak_bytes")
    return [*(name for name in columns if name not in sizes), *(name for name in columns if name in sizes)]


def _cell(column: str, value: Any, metric: str) -> Cell:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return Cell("")
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.number):
        return Cell(str(value), state=column == "state")
    return Cell(_format_number(column, float(value), metric), float(value))


def _format_number(column: str, number: float, metric: str) -> str:
    if column == metric:
        return f"{number:.4f}"
    if column.endswith("_bytes"):
        return format_bytes(number)
    if column == "duration_s":
        return f"{number:.1f}"
    return f"{int(number):,}" if number.is_integer() and abs(number) < 1e15 else f"{number:.4g}"


def _failed(record: SweepRecord) -> list[dict[str, str]]:
    return [
        {
            "trial": trial.trial,
            "last_line": trial.error.strip().splitlines()[-1] if trial.error.strip() else "no traceback",
            "traceback": trial.error,
        }
        for trial in record.trials.values()
        if trial.state == "FAILED"
    ]
