"""Pictures of a data step that was searched: its measures over its parameters, such as the elbow of a k-means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from platform.pages.figures import GRID, INK, LABEL_COLOURS
from platform.pages.page import Picture, picture


@dataclass(frozen=True)
class StepPoint:
    """One run of a step: the parameters that were searched (dotted keys), and what it measured."""

    params: Mapping[str, Any]
    measures: Mapping[str, float]


def measure_pictures(points: Sequence[StepPoint]) -> list[Picture]:
    """Draw each measure over the number that was searched, with a line for every value of the other parameters.

    Inertia over the number of clusters is the elbow; Davies-Bouldin and Calinski-Harabasz are its quality. Where
    several numbers were searched, the one with most values is the axis. No picture without a searched number.
    """
    axis = _axis(points)
    if axis is None:
        return []
    names = sorted({name for point in points for name in point.measures})
    return [picture(f"{name} over {axis}", _caption(axis, points), _figure(points, axis, name)) for name in names]


def _axis(points: Sequence[StepPoint]) -> str | None:
    values: dict[str, set[float]] = {}
    for point in points:
        for name, value in point.params.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values.setdefault(name, set()).add(value)
    searched = {name: len(seen) for name, seen in values.items() if len(seen) > 1}
    return max(searched, key=lambda name: (searched[name], name)) if searched else None


def _caption(axis: str, points: Sequence[StepPoint]) -> str:
    others = sorted({name for point in points for name in point.params} - {axis})
    return f"a line for each {', '.join(others)}" if others else "every point is a run of the step"


def _figure(points: Sequence[StepPoint], axis: str, measure: str) -> go.Figure:
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        if axis in point.params and measure in point.measures:
            others = [f"{name} {value}" for name, value in sorted(point.params.items()) if name != axis]
            lines.setdefault(", ".join(others), []).append((point.params[axis], point.measures[measure]))
    figure = go.Figure()
    for number, (name, line) in enumerate(sorted(lines.items())):
        x, y = zip(*sorted(line), strict=True)
        colour = LABEL_COLOURS[number % len(LABEL_COLOURS)]
        figure.add_scatter(x=x, y=y, mode="lines+markers", name=name, line={"color": colour}, showlegend=bool(name))
    figure.update_layout(
        height=340, margin={"l": 60, "r": 20, "t": 20, "b": 50}, plot_bgcolor="white", font={"color": INK}
    )
    figure.update_xaxes(title=axis, gridcolor=GRID)
    figure.update_yaxes(title=measure, gridcolor=GRID)
    return figure
