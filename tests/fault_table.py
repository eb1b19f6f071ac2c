"""The table of what a session of tests has injected, gathered from its tests' reports, whichever process ran them.

An injection has survived when the sweep came to its end and every trial ended as promised; `lost` counts trials without
an end, `duplicated` trials with two, `leaked` sweeps that left processes, resources or files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

PROPERTY = "fault"  # of a test's report: a row's name and counts
COLUMNS = ("injected", "survived", "lost", "duplicated", "leaked")


def rows_of(properties: Iterable[tuple[str, object]]) -> dict[str, Counter[str]]:
    """Add the counts up, a row for each kind of fault."""
    rows: dict[str, Counter[str]] = {}
    for name, value in properties:
        if name == PROPERTY:
            assert isinstance(value, Mapping)
            rows.setdefault(value["name"], Counter()).update(value["counts"])
    return rows


def lines_of(rows: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield the table's lines."""
    width = max(map(len, rows))
    yield f"{'':<{width}}  " + "  ".join(COLUMNS)
    for fault, row in sorted(rows.items()):
        yield f"{fault:<{width}}  " + "  ".join(f"{row[column]:>{len(column)}}" for column in COLUMNS)
