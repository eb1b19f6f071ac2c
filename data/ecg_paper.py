"""Records drawn as an electrocardiograph prints them: 25 mm/s and 10 mm/mV on a grid of 1 mm and 5 mm.

The twelve standard leads come in three rows of four, 2.5 s each, over a strip of lead II; other leads come one below
the other. Each lead is drawn about its median. Below them a strip of colour may say how much each timestep counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.leads import LEADS_12

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MM_PER_S, MM_PER_MV = 25, 10
SHOWN_S = 10.0  # the rest of a longer record is not drawn
ROW_MM = 30  # from one row's zero to the next
LEFT_MM, RIGHT_MM, TOP_MM, BOTTOM_MM = 15, 5, 25, 20  # multiples of 5: the grid ends in a thick line
GAP_MM = 4  # between records
STRIP_MM = 10  # that a strip of colour takes, half of it white
PULSE_MM = 5  # width of the calibration pulse of 1 mV
MOST_ROWS = 12
DPI = 120

_MM_PER_INCH = 25.4
_PAPER, _THIN, _THICK, _INK = "#fff8f6", "#f8d3d0", "#ec9f9a", "#16161d"
_COLUMNS = (LEADS_12[0:3], LEADS_12[3:6], LEADS_12[6:9], LEADS_12[9:12])


@dataclass(frozen=True)
class Strip:
    """How much each timestep of a record counts, 0 to 1, and a few words on what that is."""

    weight_T: NDArray[np.float64]
    caption: str


@dataclass(frozen=True)
class PaperRecord:
    """One record without padding: ecg_LT in mV."""

    ecg_LT: NDArray[np.float32]
    lead_names: tuple[str, ...]
    fs_hz: float
    title: str
    strip: Strip | None = None


class Trace(NamedTuple):
    """A part of one lead, and where it is drawn: `row` from the top, `start_s` from the left and in the record."""

    lead: str
    row: int
    start_s: float
    stop_s: float


def draw_records(records: Sequence[PaperRecord], path: Path) -> None:
    """Draw records below each other and write the picture to `path` (PNG).

    Raises:
        OSError: the file can't be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second: only who draws pays
    from matplotlib.figure import Figure

    layouts = [layout(record) for record in records]
    heights_mm = [_height_mm(record, traces) for record, traces in zip(records, layouts, strict=True)]
    width_mm = LEFT_MM + RIGHT_MM + MM_PER_S * max(_shown_s(record) for record in records)
    width_mm = 5 * np.ceil(width_mm / 5)
    all_mm = sum(heights_mm) + GAP_MM * (len(records) - 1)
    figure = Figure(figsize=(width_mm / _MM_PER_INCH, all_mm / _MM_PER_INCH), dpi=DPI)
    FigureCanvasAgg(figure)
    top_mm = all_mm
    for record, traces, height_mm in zip(records, layouts, heights_mm, strict=True):
        axes = figure.add_axes((0, (top_mm - height_mm) / all_mm, 1, height_mm / all_mm))
        _draw_grid(axes, width_mm, height_mm)
        _draw_record(axes, record, traces, height_mm)
        top_mm -= height_mm + GAP_MM
    figure.savefig(path, format="png")


def layout(record: PaperRecord) -> list[Trace]:
    """Return what is drawn where: 3 x 4 and a rhythm strip of II where all twelve leads are there, else rows."""
    shown_s, given = _shown_s(record), {name.lower(): name for name in record.lead_names}
    if not {name.lower() for name in LEADS_12} <= given.keys():
        return [Trace(name, row, 0, shown_s) for row, name in enumerate(record.lead_names[:MOST_ROWS])]
    part_s = shown_s / len(_COLUMNS)
    traces = [
        Trace(given[name.lower()], row, column * part_s, (column + 1) * part_s)
        for column, names in enumerate(_COLUMNS)
        for row, name in enumerate(names)
    ]
    return [*traces, Trace(given["ii"], len(_COLUMNS[0]), 0, shown_s)]


def _height_mm(record: PaperRecord, traces: Sequence[Trace]) -> int:
    return TOP_MM + BOTTOM_MM + ROW_MM * traces[-1].row + (STRIP_MM if record.strip else 0)


def _shown_s(record: PaperRecord) -> float:
    return min(SHOWN_S, float(record.ecg_LT.shape[1] / record.fs_hz))


def _draw_grid(axes: Axes, width_mm: float, height_mm: float) -> None:
    axes.set_xlim(0, width_mm)
    axes.set_ylim(0, height_mm)
    axes.set_axis_off()
    axes.add_artist(_patch(width_mm, height_mm))
    for step_mm, colour, line_mm in ((1, _THIN, 0.12), (5, _THICK, 0.2)):
        style: dict[str, Any] = {"colors": colour, "linewidth": line_mm / _MM_PER_INCH * 72, "zorder": 1}
        axes.vlines(np.arange(0, width_mm + 1, step_mm), 0, height_mm, **style)
        axes.hlines(np.arange(0, height_mm + 1, step_mm), 0, width_mm, **style)


def _patch(width_mm: float, height_mm: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0, 0), width_mm, height_mm, color=_PAPER, zorder=0)


def _draw_record(axes: Axes, record: PaperRecord, traces: Sequence[Trace], height_mm: float) -> None:
    for row in sorted({trace.row for trace in traces}):
        _draw_pulse(axes, height_mm - TOP_MM - ROW_MM * row)
    for trace in traces:
        zero_mm = height_mm - TOP_MM - ROW_MM * trace.row
        x_mm, y_mm = _points(record, trace)
        axes.plot(x_mm, y_mm + zero_mm, color=_INK, linewidth=0.8, solid_joinstyle="round", zorder=3)
        left_mm = LEFT_MM + MM_PER_S * trace.start_s
        if trace.start_s:
            axes.vlines(left_mm, zero_mm - 3, zero_mm + 3, colors=_INK, linewidth=0.8, zorder=3)
        axes.text(left_mm + 1.5, zero_mm + 9, trace.lead, fontsize=9, weight="bold", color=_INK, zorder=4)
    if record.strip is not None:
        _draw_strip(axes, record, record.strip)
    for left_mm, bottom_mm, text in _captions(record, len(traces), height_mm):
        axes.text(left_mm, bottom_mm, text, fontsize=8, color=_INK, zorder=4, parse_math=False)


def _points(record: PaperRecord, trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a trace's points in mm: from the paper's left edge, and from the trace's zero."""
    ecg_T = record.ecg_LT[record.lead_names.index(trace.lead)]
    first, last = round(trace.start_s * record.fs_hz), round(trace.stop_s * record.fs_hz)
    times = np.arange(first, min(last + 1, len(ecg_T)))  # one more, so that neighbouring traces touch
    return LEFT_MM + MM_PER_S * times / record.fs_hz, MM_PER_MV * (ecg_T[times] - float(np.median(ecg_T)))


def _draw_pulse(axes: Axes, zero_mm: float) -> None:
    left_mm, top_mm = LEFT_MM - PULSE_MM - 5, zero_mm + MM_PER_MV
    x_mm = [left_mm - 2, left_mm, left_mm, left_mm + PULSE_MM, left_mm + PULSE_MM, left_mm + PULSE_MM + 2]
    axes.plot(x_mm, [zero_mm, zero_mm, top_mm, top_mm, zero_mm, zero_mm], color=_INK, linewidth=0.8, zorder=3)


def _draw_strip(axes: Axes, record: PaperRecord, strip: Strip) -> None:
    """Draw weights as shades of one colour, under the time that they belong to."""
    shown_s = _shown_s(record)
    shown_1T = strip.weight_T[np.newaxis, : round(shown_s * record.fs_hz)]
    bottom_mm = STRIP_MM - 1
    extent_mm = (LEFT_MM, LEFT_MM + MM_PER_S * shown_s, bottom_mm, bottom_mm + STRIP_MM / 2)
    axes.imshow(shown_1T, cmap="Blues", vmin=0, vmax=1, aspect="auto", extent=extent_mm, zorder=2)


def _captions(record: PaperRecord, n_traces: int, height_mm: float) -> Iterator[tuple[float, float, str]]:
    # The fonts that matplotlib brings lack Chinese, and warn of each letter.
    title = "".join(letter if ord(letter) < 0x2E80 else "?" for letter in record.title)
    yield LEFT_MM, height_mm - 6, title
    length_s = record.ecg_LT.shape[1] / record.fs_hz
    parts = [f"{MM_PER_S} mm/s", f"{MM_PER_MV} mm/mV", f"{record.fs_hz:g} Hz"]
    if length_s > SHOWN_S:
        parts.append(f"first {SHOWN_S:g} of {length_s:.1f} s")
    if n_traces == MOST_ROWS < len(record.lead_names):
        parts.append(f"first {MOST_ROWS} of {len(record.lead_names)} leads")
    if record.strip is not None:
        parts.append(f"strip: {record.strip.caption}")
    yield LEFT_MM, 3, "    ".join(parts)
