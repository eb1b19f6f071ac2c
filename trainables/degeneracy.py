"""Degenerate classifiers: one that answers alike for every record may look good by a metric, and is never chosen.

A method that can tell reports `val/degenerate`, 1 or 0, with every epoch. Such an epoch is a trial's best only where it
has no other, and the trial is then never a sweep's best.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

DEGENERATE: Final = "degenerate"


def is_degenerate_report(metrics: Mapping[str, float]) -> bool:
    """Whether an epoch's report says that the classifier is degenerate."""
    return metrics.get(f"val/{DEGENERATE}", 0.0) > 0


def eligible_epochs(reports: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Return the epochs that may be a trial's best, ascending; all of them where all are degenerate."""
    sound = [epoch for epoch in sorted(reports) if not is_degenerate_report(reports[epoch])]
    return sound or sorted(reports)
