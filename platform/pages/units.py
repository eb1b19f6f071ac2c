"""Durations, sizes and numbers as people read them."""

from __future__ import annotations

import math


def format_duration(duration_s: float) -> str:
    """Return a duration to read: `8 s`, `3 min 05 s`, `2 h 07 min`."""
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def format_bytes(size_bytes: float) -> str:
    """Return a size to read, in decimal units: `12.3 MB`."""
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} GB"


def format_number(value: float, digits: int) -> str:
    """Return a number of so many digits, all of those before the point: `0.425`, `12.87`, `5,069` of four."""
    return f"{value:,.{max(0, digits - len(str(int(abs(value)))))}f}" if math.isfinite(value) else str(value)
