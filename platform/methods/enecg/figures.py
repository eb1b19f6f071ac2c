"""The pictures of a sweep of `method: enecg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from platform.pages.figures import INK, LABEL_COLOURS, styled


def weights_figure(experts: Sequence[str], means: Mapping[str, Sequence[float]]) -> go.Figure:
    """Draw a bar for each label, of the experts' mean weights."""
    figure = go.Figure()
    labels = list(means)
    for number, expert in enumerate(experts):
        figure.add_bar(
            x=[means[label][number] for label in labels],
            y=labels,
            name=expert,
            orientation="h",
            marker={"color": LABEL_COLOURS[number % len(LABEL_COLOURS)]},
            hovertemplate=f"%{{y}}: {expert} %{{x:.3f}}<extra></extra>",
        )
    figure.update_layout(barmode="stack")
    return styled(figure, "mean weight", "", height=max(240, 90 + 26 * len(labels)))


def cost_figure(points: Sequence[tuple[str, float, float]], metric: str) -> go.Figure:
    """Draw ensembles, (name, ms a record, score on validation) each."""
    names, ms, values = zip(*points, strict=True)
    figure = go.Figure()
    figure.add_scatter(
        x=ms,
        y=values,
        mode="markers+text",
        text=names,
        textposition="top center",
        textfont={"size": 10, "color": INK},
        marker={"size": 9, "color": LABEL_COLOURS[0]},
        hovertemplate="%{text}: %{y:.4f} at %{x:.2f} ms<extra></extra>",
        showlegend=False,
    )
    return styled(figure, "experts, ms a record", f"val/{metric}", height=400)
