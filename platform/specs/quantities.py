"""The numbers that are known of a trial beside its metrics: which way they are better, and when they are known."""

from __future__ import annotations

from typing import Final, Literal

Mode = Literal["max", "min"]

LATENCY: Final = "latency_ms"
MEASURED_QUANTITIES: Final = (LATENCY,)
"""Measured after the search, of the models worth choosing: they bound the choice, and no proposal."""

_SMALLER: Final = frozenset({"loss", "mae", "mse", "rmse", "brier", "ece", "top_label_ece", "parameters", "epoch"})
_SMALLER_UNITS: Final = ("_bytes", "_kib", "_ms", "_s")


def better(quantity: str) -> Mode:
    """Tell which way a quantity is better: sizes, times, losses and errors the smaller, all else the larger."""
    name = quantity.rpartition("/")[2]
    return "min" if name in _SMALLER or name.endswith(_SMALLER_UNITS) else "max"
