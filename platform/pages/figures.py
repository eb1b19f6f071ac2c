"""The pictures of a sweep's report: pure functions from a record, a study or test predictions to plotly figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, json_to_distribution
from sklearn.metrics import roc_auc_score, roc_curve

from platform.specs.quantities import Mode
from platform.sweeps.journal import SweepRecord, TrialRecord
from platform.sweeps.leaderboard import best_epoch

Objectives = Sequence[tuple[str, Mode]]

INK, MUTED, GRID, BEST = "#1c2430", "#66727f", "#e7ebf0", "#0a7d4f"
STATE_COLOURS = {"COMPLETED": "#2866ad", "STOPPED": "#e3a02f", "FAILED": "#c23b3b", "RUNNING": "#8a96a3"}
LABEL_COLOURS = ("#2866ad", "#c8553d", "#0a7d4f", "#8a5fb0", "#e3a02f", "#3aa3a8", "#a04b72", "#66727f")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"
NOT_SET = "not set"  # a conditional parameter in a trial that does not have it

MAX_AXES = 12  # of the parallel coordinates; more cannot be read
MAX_CURVES = 24  # labels with a ROC curve of their own
N_ROC_POINTS = 201
MAX_SCATTER_POINTS = 2000


def best_value(trial: TrialRecord, metric: str, mode: Mode) -> float | None:
    """Return the trial's best value of `metric`, or None if it never reported it."""
    epoch = best_epoch(trial, metric, mode)
    return None if epoch is None else trial.reports[epoch][metric]


def history(record: SweepRecord, metric: str, mode: Mode) -> go.Figure:
    """Draw every trial's best value in order of proposal, and the incumbent's as a line."""
    figure = go.Figure()
    for state, colour in STATE_COLOURS.items():
        points = [(t, best_value(t, metric, mode)) for t in record.trials.values() if t.state == state]
        shown = [(t, value) for t, value in points if value is not None]
        figure.add_scatter(
            x=[t.number for t, _ in shown],
            y=[value for _, value in shown],
            mode="markers",
            name=state,
            marker={"color": colour, "size": 7, "opacity": 0.75, "line": {"width": 0.5, "color": "white"}},
            text=[t.trial for t, _ in shown],
            hovertemplate="%{text}: %{y:.4f}<extra></extra>",
            visible=True if shown else "legendonly",
            showlegend=bool(shown),
        )
    numbers, values = _incumbents(record, metric, mode)
    line = {"color": INK, "width": 1.8, "shape": "hv"}
    figure.add_scatter(x=numbers, y=values, mode="lines", name="incumbent", line=line, hoverinfo="skip")
    return styled(figure, "trial", metric, height=380)


def _incumbents(record: SweepRecord, metric: str, mode: Mode) -> tuple[list[int], list[float]]:
    numbers: list[int] = []
    values: list[float] = []
    better = max if mode == "max" else min
    for trial in record.trials.values():
        value = best_value(trial, metric, mode)
        if value is None or trial.state == "FAILED" or not trial.is_feasible:
            continue
        numbers.append(trial.number)
        values.append(better(value, values[-1]) if values else value)
    return numbers, values


def learning_curves(record: SweepRecord, metric: str, best: TrialRecord | None) -> go.Figure:
    """Draw `metric` over the epochs of every trial, coloured by state, the best trial in front."""
    figure = go.Figure()
    opacity = min(0.8, max(0.35, 4 / math.sqrt(1 + len(record.trials))))
    for state in ("FAILED", "STOPPED", "RUNNING", "COMPLETED"):
        trials = [trial for trial in record.trials.values() if trial.state == state and trial.reports]
        if trials:
            line = {"color": STATE_COLOURS[state], "width": 1.1}
            curves = _curves(trials, metric)
            figure.add_scatter(**curves, line=line, opacity=opacity, legendgroup=state, showlegend=False)
            # The legend's own line is opaque.
            figure.add_scatter(x=[None], y=[None], mode="lines", name=state, line=line, legendgroup=state)
    if best is not None:
        line = {"color": BEST, "width": 3.0}
        figure.add_scatter(**_curves([best], metric), name=f"best: {best.trial}", line=line)
    return styled(figure, "epoch", metric, height=380)


def _curves(trials: Sequence[TrialRecord], metric: str) -> dict[str, Any]:
    """Return one trace for many curves, with a gap after each: a thousand traces would be slow to draw."""
    epochs: list[int | None] = []
    values: list[float | None] = []
    names: list[str] = []
    for trial in trials:
        own = [epoch for epoch in sorted(trial.reports) if metric in trial.reports[epoch]]
        epochs += [*own, None]
        values += [*(float(f"{trial.reports[epoch][metric]:.6g}") for epoch in own), None]
        names += [trial.trial] * (len(own) + 1)
    longest = max((trial.epochs for trial in trials), default=0)
    return {
        "x": epochs,
        "y": values,
        "text": names,
        "mode": "lines+markers" if longest < 2 else "lines",
        "hovertemplate": "%{text}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def importance(importances: Mapping[str, float]) -> go.Figure:
    """Draw the share of each parameter in the variation of the objective, the largest on top."""
    names = list(importances)[::-1]
    values = [importances[name] for name in names]
    figure = go.Figure()
    figure.add_bar(
        x=values,
        y=names,
        orientation="h",
        marker={"color": STATE_COLOURS["COMPLETED"]},
        text=[f"{value:.2f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
    )
    figure = styled(figure, "share", "", height=110 + 34 * len(names))
    figure.update_xaxes(range=[0, max(values, default=1) * 1.15])
    return figure.update_yaxes(showgrid=False, ticksuffix="  ")


def parallel_coordinates(record: SweepRecord, metric: str, mode: Mode, names: Sequence[str]) -> go.Figure | None:
    """Draw each ranked trial as a line through its parameters `names` and its best value; None below two trials."""
    ranked = [t for t in record.trials.values() if t.state in ("COMPLETED", "STOPPED")]
    scored = [(value, trial) for trial in ranked if (value := best_value(trial, metric, mode)) is not None]
    if len(scored) < 2:
        return None
    scored.sort(key=lambda pair: pair[0], reverse=mode == "min")  # the best are drawn last, on top
    values = np.array([value for value, _ in scored])
    trials = [trial for _, trial in scored]
    # Most of the range is bad trials; the colours are for telling the good ones apart.
    low, high = (np.quantile(values, 0.3), values.max()) if mode == "max" else (values.min(), np.quantile(values, 0.7))
    scale = [[0.0, "#d9e0e8"], [0.5, "#7fa6d3"], [0.85, "#2866ad"], [1.0, BEST]]
    line = {
        "color": values, "colorscale": scale, "reversescale": mode == "min", "cmin": low, "cmax": high,
        "showscale": True, "colorbar": {"thickness": 12, "outlinewidth": 0, "tickformat": ".3~g"},
    }  # fmt: skip
    axes = [_axis(trials, name) for name in names[:MAX_AXES]]
    axes.append({"label": metric, "values": values, "tickformat": ".3~g"})
    figure = go.Figure(go.Parcoords(line=line, dimensions=axes, labelfont={"size": 13}, tickfont={"size": 11}))
    return styled(figure, "", "", height=430).update_layout(margin={"l": 70, "r": 40, "t": 60, "b": 30})


def _axis(trials: Sequence[TrialRecord], name: str) -> dict[str, Any]:
    text = next(trial.distributions[name] for trial in trials if name in trial.distributions)
    distribution = json_to_distribution(text)
    if isinstance(distribution, CategoricalDistribution):
        return _categorical_axis(trials, name, [str(choice) for choice in distribution.choices])
    return _numeric_axis(trials, name, is_log=bool(getattr(distribution, "log", False)))


def _categorical_axis(trials: Sequence[TrialRecord], name: str, choices: Sequence[str]) -> dict[str, Any]:
    own = [str(trial.sampled[name]) if name in trial.sampled else NOT_SET for trial in trials]
    # Spaces may differ between the processes of a resumed sweep, so what trials hold joins the choices.
    ticks = list(dict.fromkeys([*choices, *own]))
    codes = [float(ticks.index(choice)) for choice in own]
    return {"label": name, "values": codes, "tickvals": list(range(len(ticks))), "ticktext": ticks}


def _numeric_axis(trials: Sequence[TrialRecord], name: str, is_log: bool) -> dict[str, Any]:
    known = [float(trial.sampled[name]) for trial in trials if name in trial.sampled]
    place = math.log10 if is_log else float
    low, high = place(min(known)), place(max(known))
    width = (high - low) or 1.0
    missing = low - 0.15 * width
    places = [place(float(trial.sampled[name])) if name in trial.sampled else missing for trial in trials]
    ticks = list(np.linspace(low, high, 5)) if high > low else [low]
    texts = [f"{10**tick if is_log else tick:.3g}" for tick in ticks]
    if len(known) < len(trials):
        ticks, texts = [missing, *ticks], [NOT_SET, *texts]
    return {"label": name, "values": places, "tickvals": ticks, "ticktext": texts, "range": [min(ticks), low + width]}


def roc_curves(labels_NK: NDArray[Any], probabilities_NK: NDArray[Any], names: Sequence[str]) -> go.Figure:
    """Draw a ROC curve for every label that has positives and negatives, at most 24, the rarest left out."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GRID, "width": 1.5}, hoverinfo="skip", showlegend=False
    )
    for index, label in enumerate(labels_with_roc(labels_NK)):
        _add_roc(figure, labels_NK[:, label], probabilities_NK[:, label], names[label], index)
    figure = styled(figure, "1 - specificity", "sensitivity", height=460)
    figure.update_xaxes(range=[-0.01, 1.01], constrain="domain")
    figure.update_yaxes(range=[-0.01, 1.01], scaleanchor="x", scaleratio=1)
    return figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 0, "yanchor": "bottom", "xanchor": "left"})


def labels_with_roc(labels_NK: NDArray[Any]) -> list[int]:
    """Return the labels (columns) that have both classes: the 24 with the most positives, in their own order."""
    n_positive_K = labels_NK.sum(axis=0)
    both = [k for k, count in enumerate(n_positive_K) if 0 < count < len(labels_NK)]
    return sorted(sorted(both, key=lambda k: -n_positive_K[k])[:MAX_CURVES])


def _add_roc(figure: go.Figure, labels_N: NDArray[Any], probabilities_N: NDArray[Any], name: str, index: int) -> None:
    false_rate, true_rate, _ = roc_curve(labels_N, probabilities_N)
    if len(false_rate) > 2 * N_ROC_POINTS:
        keep = np.unique(np.linspace(0, len(false_rate) - 1, 2 * N_ROC_POINTS).round().astype(int))
        false_rate, true_rate = false_rate[keep], true_rate[keep]
    colour = LABEL_COLOURS[index % len(LABEL_COLOURS)]
    dash = ("solid", "dash", "dot")[index // len(LABEL_COLOURS)]
    figure.add_scatter(
        x=false_rate.round(5),
        y=true_rate.round(5),
        mode="lines",
        line={"color": colour, "width": 2.2, "dash": dash},
        name=f"{name}  {roc_auc_score(labels_N, probabilities_N):.3f}",
        hovertemplate=f"{name}: %{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    )


def predictions(targets_NK: NDArray[Any], predictions_NK: NDArray[Any], names: Sequence[str]) -> go.Figure:
    """Draw predictions against true values of a regression, at most 2,000 records a target."""
    figure = go.Figure()
    step = max(1, math.ceil(len(targets_NK) / MAX_SCATTER_POINTS))
    for k, name in enumerate(names):
        figure.add_scatter(
            x=targets_NK[::step, k],
            y=predictions_NK[::step, k],
            mode="markers",
            marker={"color": LABEL_COLOURS[k % len(LABEL_COLOURS)], "size": 5, "opacity": 0.5},
            name=name,
        )
    ends = [float(targets_NK.min()), float(targets_NK.max())]
    figure.add_scatter(x=ends, y=ends, mode="lines", line={"color": MUTED, "width": 1}, showlegend=False)
    return styled(figure, "true", "predicted", height=460)


def styled(figure: go.Figure, x_title: str, y_title: str, height: int) -> go.Figure:
    """Give a figure the look of all: fonts, colours, margins, axes."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#c8d0d9", "ticks": "", "automargin": True}
    title_font = {"color": MUTED, "size": 13}
    figure.update_layout(
        template=None,
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 60, "r": 20, "t": 34, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        hoverlabel={"font": {"family": FONT, "size": 12}},
        hovermode="closest",
    )
    figure.update_xaxes(title={"text": x_title, "font": title_font}, **axis)
    return figure.update_yaxes(title={"text": y_title, "font": title_font}, **axis)
