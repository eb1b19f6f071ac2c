"""Pages that stand alone: one HTML file with its pictures and plotly's script, which fetches nothing."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from platform.project import ROOT

PLOTLY_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]]}


@dataclass(frozen=True)
class Card:
    """A number of the summary."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Picture:
    """A figure as HTML; where there is none the caption says why."""

    title: str
    caption: str
    figure: Markup | None


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, the number it sorts by (None: by text), and whether it is a trial's state."""

    text: str
    sort: float | None = None
    state: bool = False


@dataclass(frozen=True)
class Table:
    """A table that sorts by a click on a column.

    Attributes:
        anchors: the id of each row, by which a link finds it; empty where none does.
    """

    title: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    anchors: Sequence[str] = ()


def picture(title: str, caption: str, figure: go.Figure | None) -> Picture:
    """Turn a figure into HTML."""
    if figure is None:
        return Picture(title, caption, None)
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=PLOTLY_CONFIG, default_width="100%")
    return Picture(title, caption, Markup(html))  # noqa: S704  (plotly escapes <, > and / in its JSON)


def render_page(template: str, **values: Any) -> str:
    """Return a template below `platform/` that extends `pages/page.html.jinja`, filled; everything in it is escaped."""
    plotly_js = Markup(get_plotlyjs())  # noqa: S704  (the library's own file)
    return _environment().get_template(template).render(plotly_js=plotly_js, **values)


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "platform"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
