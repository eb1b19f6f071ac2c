"""What a benchmark says: figures with their spread, the bars they must meet, and the machine."""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.machine import Machine


@dataclass(frozen=True)
class Figure:
    """One measured quantity, with a value for each repeat."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    def __post_init__(self) -> None:
        assert self.values, self.name

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def row(self) -> tuple[str, ...]:
        """Return the figure's cells: name, median, spread, repeats, unit, note."""
        spread = f"{_digits(min(self.values))} to {_digits(max(self.values))}"
        return (self.name, _digits(self.median), spread, str(len(self.values)), self.unit, self.note)


@dataclass(frozen=True)
class Bar:
    """What the median of a figure must meet."""

    figure: Figure
    direction: Literal["<=", ">="]
    bound: float

    @property
    def is_met(self) -> bool:
        median = self.figure.median
        if self.direction == "<=":
            return 0 < median <= self.bound  # a slope below nothing is noise, and meets no bar
        return median >= self.bound

    def text(self) -> str:
        verdict = "met" if self.is_met else "MISSED"
        return f"{verdict}: {self.figure.name} {_digits(self.figure.median)} {self.direction} {self.bound:g}"


@dataclass(frozen=True)
class Result:
    """A benchmark's outcome."""

    title: str
    machine: Machine
    figures: tuple[Figure, ...]
    bars: tuple[Bar, ...]

    def text(self) -> str:
        """Return the table, the bars and the machine."""
        rows = [("", "median", "spread", "repeats", "unit", ""), *(figure.row() for figure in self.figures)]
        bars = [bar.text() for bar in self.bars]
        return "\n".join([self.title, "", *_aligned(rows), "", *bars, "", self.machine.text()])

    def to_fields(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "machine": asdict(self.machine),
            "figures": [{**asdict(figure), "median": figure.median} for figure in self.figures],
            "bars": [
                {"figure": bar.figure.name, "direction": bar.direction, "bound": bar.bound, "is_met": bar.is_met}
                for bar in self.bars
            ],
        }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every benchmark has."""
    parser.add_argument("--check", action="store_true", help="exit with 1 where a figure misses its bar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, every repeat included, to FILE")


def conclude(result: Result, options: argparse.Namespace) -> int:
    """Print the result and do as `options` say; return the exit code."""
    print(result.text())
    if options.json is not None:
        options.json.write_text(json.dumps(result.to_fields(), indent=2) + "\n", encoding="utf-8")
    return int(options.check and not all(bar.is_met for bar in result.bars))


def _digits(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(_padded(row, widths)).rstrip() for row in rows]


def _padded(row: tuple[str, ...], widths: Sequence[int]) -> list[str]:
    """Put numbers to the right, words to the left."""
    numbers = range(1, 4)
    return [
        cell.rjust(width) if index in numbers else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
