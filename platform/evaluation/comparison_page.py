"""A comparison of sweeps in words, as a table for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from rich.table import Table as TerminalTable

from platform.evaluation.comparison import N_RESAMPLES, Standing
from platform.evaluation.page import interval_figure
from platform.evaluation.scorecard import Measured
from platform.pages.figures import LABEL_COLOURS, styled
from platform.pages.page import Card, Cell, Table, picture, render_page
from platform.pages.units import format_bytes, format_duration

COSTS: Mapping[str, tuple[str, Callable[[Standing], float]]] = {
    "trainable parameters": ("trainable_parameters", lambda each: each.trainable_parameters),
    "latency in ms a record (one thread, batch 1)": ("latency_ms", lambda each: each.latency_ms),
    "hours of the sweep": ("hours", lambda each: each.hours),
}
"""What a model costs: title of the axis -> column, value."""


def render_comparison(standings: Sequence[Standing], metric: str, header: Mapping[str, str], command: str) -> str:
    """Return the page as HTML."""
    best, first = standings[0], _first(standings)
    return render_page(
        "evaluation/comparison_page.html.jinja",
        title=f"{len(standings)} sweeps by test/{metric}",
        subtitle=(
            f"the best model of each, on the same test records; intervals and differences to {first.sweep} from "
            f"{N_RESAMPLES:,} resamples by patient, paired; p after Holm"
        ),
        header=header,
        command=command,
        cards=[_card(each, metric) for each in dict.fromkeys([best, *standings[1:3]])],
        cost=picture("Metric against cost", "up and to the left is better; bars: 95 %", cost_figure(standings, metric)),
        standings=_page_table(standings, metric),
        differences=_differences(standings, metric),
    )


def _first(standings: Sequence[Standing]) -> Standing:
    """Return the sweep that the others are compared with."""
    return next(each for each in standings if each.difference is None)


def _card(each: Standing, metric: str) -> Card:
    return Card(f"{each.sweep} ({each.method})", f"{each.value:.4f}", f"{metric} {_interval(each.low, each.high)}")


def cost_figure(standings: Sequence[Standing], metric: str) -> go.Figure:
    """Draw the metric against each cost, in a panel a cost, with a colour a method."""
    figure = make_subplots(1, len(COSTS), shared_yaxes=True, horizontal_spacing=0.04)
    methods = list(dict.fromkeys(each.method for each in standings))
    for column, (_, cost) in enumerate(COSTS.values(), start=1):
        for index, method in enumerate(methods):
            own = [each for each in standings if each.method == method]
            bars = {
                "array": [(each.high or each.value) - each.value for each in own],
                "arrayminus": [each.value - (each.low or each.value) for each in own],
                "thickness": 1.2, "width": 3,
            }  # fmt: skip
            figure.add_scatter(
                x=[cost(each) for each in own], y=[each.value for each in own], error_y=bars, row=1, col=column,
                mode="markers", marker={"color": LABEL_COLOURS[index % len(LABEL_COLOURS)], "size": 10}, name=method,
                legendgroup=method, showlegend=column == 1, text=[each.sweep for each in own],
                hovertemplate="%{text}: %{y:.4f} at %{x:.4g}<extra></extra>",
            )  # fmt: skip
    styled(figure, "", "", height=400)
    for column, title in enumerate(COSTS, start=1):
        figure.update_xaxes(type="log", title_text=title, nticks=5, tickangle=0, tickformat=".3~g", row=1, col=column)
    return figure.update_yaxes(title_text=f"test/{metric}", row=1, col=1)


def _differences(standings: Sequence[Standing], metric: str) -> object:
    others = [each for each in standings if each.difference is not None][::-1]  # plotly's first is the lowest
    measured = [Measured(each.difference or 0.0, each.difference_low, each.difference_high) for each in others]
    figure = interval_figure([each.sweep for each in others], measured, f"difference in {metric}")
    figure.add_vline(x=0, line={"color": "#8a96a3", "width": 1, "dash": "dot"})
    return picture(f"Differences to {_first(standings).sweep}", "paired, with 95 % intervals", figure)


# ---------------------------------------------------------------------- the table


def _page_table(standings: Sequence[Standing], metric: str) -> Table:
    columns, rows = ("rank", *_columns(metric)), []
    for rank, each in enumerate(standings, start=1):
        rows.append([Cell(str(rank), rank), *(Cell(text, sort) for text, sort in _cells(each))])
    return Table("Leaderboard", "click a column to sort", columns, rows)


def terminal_table(standings: Sequence[Standing], metric: str) -> TerminalTable:
    """Return the leaderboard as rich prints it."""
    table = TerminalTable(title=f"test/{metric}; differences to {_first(standings).sweep}")
    columns = _columns(metric)
    for name, (_, sort) in zip(columns, _cells(standings[0]), strict=True):
        table.add_column(name, justify="left" if sort is None else "right")
    for each in standings:
        table.add_row(*(text for text, _ in _cells(each)))
    return table


def _columns(metric: str) -> tuple[str, ...]:
    return (
        "sweep", "method", "trial", metric, "95 % interval", "difference", "interval of it", "p (Holm)", "trials",
        "epochs", "time", "trainable", "peak memory", "ONNX", "ms a record",
    )  # fmt: skip


def _cells(each: Standing) -> list[tuple[str, float | None]]:
    """Return the text of each column and the number it sorts by."""
    memory = "" if each.peak_memory_bytes is None else format_bytes(each.peak_memory_bytes)
    difference = ("first", 0.0) if each.difference is None else (f"{each.difference:+.4f}", each.difference)
    return [
        (each.sweep, None),
        (each.method, None),
        (each.trial, None),
        (f"{each.value:.4f}", each.value),
        (_interval(each.low, each.high), None),
        difference,
        (_interval(each.difference_low, each.difference_high), None),
        ("", None) if each.p_holm is None else (f"{each.p_holm:.3f}", each.p_holm),
        (f"{each.trials:,}", each.trials),
        (f"{each.epochs:,}", each.epochs),
        (format_duration(3600 * each.hours), each.hours),
        (f"{each.trainable_parameters:,}", each.trainable_parameters),
        (memory, each.peak_memory_bytes),
        ("", None) if each.onnx_bytes is None else (format_bytes(each.onnx_bytes), each.onnx_bytes),
        (f"{each.latency_ms:.2f}", each.latency_ms),
    ]


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
