"""An evaluation as a page: curves, calibration, labels, subgroups and confusion, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from platform.evaluation.report import HEADLINES, EvaluationReport
from platform.evaluation.scorecard import Measured, Scorecard
from platform.pages import figures
from platform.pages.figures import GRID, INK, LABEL_COLOURS, styled
from platform.pages.page import Card, Cell, Picture, Table, picture, render_page
from trainables.bootstrap import truth_table
from trainables.calibration import Reliability

MAX_RELIABILITY_CURVES = 8
MAX_CLASSES_WITH_NUMBERS = 30  # in the picture of a confusion matrix


def render_evaluation(report: EvaluationReport) -> str:
    """Return the page as HTML."""
    whole, subgroups = report.whole, report.cards[1:]
    return render_page(
        "evaluation/page.html.jinja",
        title=f"{report.header['sweep']} {report.header['trial']} on {report.header['split']}",
        subtitle=f"{_count(whole)}; intervals: {report.header['intervals']}",
        header={name: str(value) for name, value in report.header.items()},
        command="",
        cards=_cards(whole),
        pictures=_pictures(report),
        macro=_macro_table(whole),
        subgroup_picture=_subgroup_picture(report.cards, report.headline),
        subgroups=_subgroup_table(report.cards) if subgroups else None,
        per_label=_label_table(whole),
        confusion_picture=_confusion_picture(report),
        confusion=_confusion_table(report),
        notes=report.notes,
    )


def _count(card: Scorecard) -> str:
    patients = "patients unknown" if card.n_patients is None else f"{card.n_patients:,} patients"
    return f"{card.n_records:,} records, {patients}"


def _cards(whole: Scorecard) -> list[Card]:
    shown = [name for name in (*HEADLINES, "ece", "brier") if name in whole.macro][:5]
    return [Card(name, f"{whole.macro[name].value:.4f}", _interval(whole.macro[name])) for name in shown]


def _interval(measured: Measured) -> str:
    return "" if measured.low is None else f"{measured.low:.4f} to {measured.high:.4f}"


# ---------------------------------------------------------------------- pictures


def _pictures(report: EvaluationReport) -> list[Picture]:
    evaluation, names = report.evaluation, report.label_set.names
    if report.label_set.task == "regression":
        known_N = np.isfinite(evaluation.labels_NK).all(axis=1)
        drawn = figures.predictions(evaluation.labels_NK[known_N], evaluation.predicted_NK[known_N], names)
        return [picture("Predictions", "against the true values", drawn)]
    truth_NK = truth_table(evaluation, report.label_set)
    roc = figures.roc_curves(truth_NK, evaluation.predicted_NK, names)
    return [
        picture("ROC", "area under each curve in the legend; the rarest labels beyond 24 are left out", roc),
        picture("Calibration", _calibration_caption(report), reliability_figure(_shown_bins(report))),
    ]


def _shown_bins(report: EvaluationReport) -> dict[str, Reliability]:
    """Return the bins of the most frequent labels; that of the most probable class, which comes first, always."""
    order = sorted(report.reliability, key=lambda name: -report.whole.n_positive.get(name, report.whole.n_records))
    shown = set(order[:MAX_RELIABILITY_CURVES])
    return {name: bins for name, bins in report.reliability.items() if name in shown}


def _calibration_caption(report: EvaluationReport) -> str:
    n_left_out = len(report.reliability) - len(_shown_bins(report))
    caption = "share of positives against mean probability in 15 bins; ECE in the legend; bars: 95 % (Wilson)"
    return caption + (f"; the {n_left_out} rarest labels are left out" if n_left_out else "")


def reliability_figure(bins: Mapping[str, Reliability]) -> go.Figure:
    """Draw observed against predicted, a line a label; perfect calibration is the diagonal."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", line={"color": GRID, "width": 1.5}, hoverinfo="skip", showlegend=False
    )
    for index, (name, each) in enumerate(bins.items()):
        colour, interval_B2 = LABEL_COLOURS[index % len(LABEL_COLOURS)], each.interval_B2
        bars = {
            "array": interval_B2[:, 1] - each.observed_B, "arrayminus": each.observed_B - interval_B2[:, 0],
            "thickness": 1, "width": 0,
        }  # fmt: skip
        figure.add_scatter(
            x=each.predicted_B, y=each.observed_B, error_y=bars, mode="lines+markers", opacity=0.85,
            line={"color": colour, "width": 1.8}, marker={"size": 6}, name=f"{name}  {each.error:.3f}",
            text=each.n_B, hovertemplate="%{x:.3f}, %{y:.3f}, %{text:,} records<extra></extra>",
        )  # fmt: skip
    figure = styled(figure, "mean probability", "share of positives", height=460)
    figure.update_xaxes(range=[-0.01, 1.01], constrain="domain")
    figure.update_yaxes(range=[-0.01, 1.01], scaleanchor="x", scaleratio=1, constrain="domain")
    return figure.update_layout(legend={"orientation": "v", "x": 1.02, "y": 0, "yanchor": "bottom", "xanchor": "left"})


def _subgroup_picture(cards: Sequence[Scorecard], metric: str) -> Picture:
    shown = [card for card in cards if metric in card.macro][::-1]  # plotly's first is the lowest
    figure = interval_figure([_group_name(card) for card in shown], [card.macro[metric] for card in shown], metric)
    return picture("Subgroups", f"{metric} with its 95 % interval; groups without both classes are left out", figure)


def interval_figure(names: Sequence[str], measured: Sequence[Measured], x_title: str) -> go.Figure:
    """Draw a value with its interval a line, from the bottom up."""
    value_N = np.array([each.value for each in measured])
    low_N, high_N = (
        np.array([each.value if end is None else end for each, end in zip(measured, ends, strict=True)])
        for ends in ([each.low for each in measured], [each.high for each in measured])
    )
    bars = {"array": high_N - value_N, "arrayminus": value_N - low_N, "thickness": 1.6, "width": 4}
    figure = go.Figure()
    figure.add_scatter(
        x=value_N, y=list(names), error_x=bars, mode="markers", marker={"color": LABEL_COLOURS[0], "size": 9},
        hovertemplate="%{y}: %{x:.4f}<extra></extra>", showlegend=False,
    )  # fmt: skip
    return styled(figure, x_title, "", height=110 + 30 * len(names))


def _confusion_picture(report: EvaluationReport) -> Picture | None:
    if report.label_set.task != "multiclass":
        return None
    counts_KK = report.confusion[report.label_set.name]
    return picture("Confusion", "records; colour: share of the true class", confusion_figure(counts_KK, report))


def confusion_figure(counts_KK: NDArray[np.int64], report: EvaluationReport) -> go.Figure:
    """Draw the classes' counts, truth down and decisions across."""
    names = list(report.label_set.names)
    share_KK = counts_KK / np.maximum(1, counts_KK.sum(axis=1, keepdims=True))
    figure = go.Figure()
    figure.add_heatmap(
        z=share_KK, x=names, y=names, zmin=0, zmax=1, colorscale=[[0, "#f4f6f8"], [1, LABEL_COLOURS[0]]],
        text=counts_KK, texttemplate="%{text}" if len(names) <= MAX_CLASSES_WITH_NUMBERS else None, showscale=False,
        hovertemplate="%{y} called %{x}: %{text:,} (%{z:.1%})<extra></extra>", textfont={"color": INK},
    )  # fmt: skip
    figure = styled(figure, "called", "true", height=160 + 34 * len(names))
    return figure.update_yaxes(autorange="reversed")


# ---------------------------------------------------------------------- tables


def _macro_table(whole: Scorecard) -> Table:
    rows = [[Cell(name), _number(each), Cell(_interval(each))] for name, each in whole.macro.items()]
    caption = "means over the labels; of accuracy for several classes, the share of right answers"
    if whole.left_out:
        caption += f"; with one value only, so in accuracy, ECE and Brier alone: {', '.join(whole.left_out)}"
    return Table("Metrics", caption, ("metric", "value", "95 % interval"), rows)


def _label_table(whole: Scorecard) -> Table:
    metrics = list(dict.fromkeys(name for each in whole.per_label.values() for name in each))
    rows = [
        [Cell(label), Cell(f"{whole.n_positive[label]:,}", whole.n_positive[label]), *_measured(each, metrics)]
        for label, each in whole.per_label.items()
    ]
    return Table("Labels", "click a column to sort; 95 % intervals behind", ("label", "records", *metrics), rows)


def _subgroup_table(cards: Sequence[Scorecard]) -> Table:
    metrics = list(cards[0].macro)
    rows = [
        [Cell(_group_name(card)), Cell(f"{card.n_records:,}", card.n_records), *_measured(card.macro, metrics)]
        for card in cards
    ]
    caption = "macro metrics over the labels that have both classes in the group; those of each label are in the CSV"
    return Table("Metrics by subgroup", caption, ("group", "records", *metrics), rows)


def _confusion_table(report: EvaluationReport) -> Table | None:
    if report.label_set.task not in ("binary", "multilabel"):
        return None
    columns = ("label", "threshold", "true positives", "false positives", "false negatives", "true negatives")
    rows = []
    for (label, counts_22), threshold in zip(report.confusion.items(), report.evaluation.thresholds_K, strict=True):
        (tn, fp), (fn, tp) = counts_22.tolist()
        counts = [Cell(f"{count:,}", count) for count in (tp, fp, fn, tn)]
        rows.append([Cell(label), Cell(f"{threshold:.3f}", float(threshold)), *counts])
    return Table("Confusion", "at each label's threshold, which was fitted on validation", columns, rows)


def _measured(metrics: Mapping[str, Measured], names: Sequence[str]) -> list[Cell]:
    return [_number(metrics[name], with_interval=True) if name in metrics else Cell("") for name in names]


def _number(measured: Measured, with_interval: bool = False) -> Cell:
    text = f"{measured.value:.4f}"
    if with_interval and measured.low is not None:
        text += f" [{measured.low:.3f}, {measured.high:.3f}]"
    return Cell(text, measured.value)


def _group_name(card: Scorecard) -> str:
    return card.group if card.attribute == "all" else f"{card.attribute}: {card.group}"
