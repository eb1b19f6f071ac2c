"""The pictures of a PEFT report, as SVG: they stand in a Markdown file as well as in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from platform.methods.peft.cells import Cell

COLOURS = ("#2866ad", "#c8553d", "#0a7d4f", "#8a5fb0", "#e3a02f", "#3aa3a8", "#a04b72", "#66727f")
APART = 1.12  # backbones that train as much are drawn beside one another
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def trade_off(cells: Sequence[Cell]) -> str:
    """Draw each cell's headline metric, with its interval, against the parameters that it trains."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    backbones = list(dict.fromkeys(cell.backbone for cell in cells))
    tunings = list(dict.fromkeys(cell.tuning for cell in cells))
    for cell in cells:
        value, low, high = cell.score
        number = backbones.index(cell.backbone)
        axes.errorbar(
            cell.n_trainable * APART**number,
            value,
            yerr=[[value - low], [high - value]] if low is not None and high is not None else None,
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[tunings.index(cell.tuning) % len(MARKERS)],
            linewidth=0.8,
            capsize=2,
        )
    for number, backbone in enumerate(backbones):
        axes.plot([], [], color=COLOURS[number % len(COLOURS)], label=backbone)
    for number, tuning in enumerate(tunings):
        axes.plot([], [], MARKERS[number % len(MARKERS)], color="#66727f", label=tuning)
    axes.set_xscale("log")
    _finish(axes, "trainable parameters, head included", cells[0].headline)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return _svg(figure)


def curves(cells: Sequence[Cell], metric: str) -> str:
    """Draw the losses on training (dashed) and validation records and `metric`, a row for each backbone."""
    backbones = list(dict.fromkeys(cell.backbone for cell in cells))
    figure = Figure(figsize=(10, 3.2 * len(backbones)), layout="constrained")
    rows = figure.subplots(len(backbones), 2, squeeze=False)
    for row, backbone in zip(rows, backbones, strict=True):
        for number, cell in enumerate(cell for cell in cells if cell.backbone == backbone):
            colour = COLOURS[number % len(COLOURS)]
            _curve(row[0], cell, "train/loss", color=colour, linestyle="--", linewidth=1)
            _curve(row[0], cell, "val/loss", color=colour, label=cell.tuning)
            _curve(row[1], cell, metric, color=colour, label=cell.tuning)
        row[0].set_title(backbone, fontsize=10, loc="left")
        for axes in row:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _finish(row[0], "epoch", "loss: training dashed, validation solid")
        _finish(row[1], "epoch", metric)
        row[1].legend(frameon=False, fontsize=7)
    return _svg(figure)


def _curve(axes: Axes, cell: Cell, metric: str, **style: Any) -> None:
    points = [(epoch, report[metric]) for epoch, report in sorted(cell.trial.reports.items()) if metric in report]
    marker = "o" if len(points) == 1 else None
    axes.plot([epoch for epoch, _ in points], [value for _, value in points], marker=marker, **style)


def _finish(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=9)
    axes.set_ylabel(y_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(color="#e7ebf0")
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> str:
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
