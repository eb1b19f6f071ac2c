"""The pictures of a sweep of `method: enecg`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from platform.methods.enecg.subsets import Subset
from platform.pages.figures import INK, LABEL_COLOURS, MUTED, styled


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
    figure.update_layout(barmode="stack", legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, "mean weight", "", height=max(240, 90 + 26 * len(labels)))


def cost_figure(subsets: Sequence[Subset], metric: str, bound: float) -> go.Figure:
    """Draw ensembles, time against score on validation: single experts by name, others by how many they are.

    Args:
        bound: the score that counts as good as the whole's.
    """
    ordered = sorted(subsets, key=lambda each: each.ms)
    figure = go.Figure()
    figure.add_scatter(
        x=[each.ms for each in ordered],
        y=[each.value for each in ordered],
        mode="markers+text",
        text=[each.name if len(each.experts) == 1 else str(len(each.experts)) for each in ordered],
        textposition=[("top center", "bottom center")[number % 2] for number in range(len(ordered))],
        textfont={"size": 11, "color": INK},
        marker={"size": 9, "color": LABEL_COLOURS[0]},
        customdata=[each.name for each in ordered],
        hovertemplate="%{customdata}: %{y:.4f} at %{x:.2f} ms<extra></extra>",
        showlegend=False,
    )
    figure.add_hline(y=bound, line={"dash": "dot", "color": MUTED, "width": 1})
    return styled(figure, "experts, ms a record", f"val/{metric}", height=400)
