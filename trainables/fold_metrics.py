"""The names under which a cross-validated trial reports what each of its folds measured: `fold2/val/auroc`."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAME = re.compile(r"fold(\d+)/(.+)")


def fold_metric(fold: int, name: str) -> str:
    """Return the name of a fold's own metric; folds count from 1."""
    return f"fold{fold}/{name}"


def split_by_fold(metrics: Mapping[str, float]) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Return the trial's own metrics, and those of each fold under their plain names."""
    own: dict[str, float] = {}
    folds: dict[int, dict[str, float]] = {}
    for name, value in metrics.items():
        match = _NAME.fullmatch(name)
        if match is None:
            own[name] = value
        else:
            folds.setdefault(int(match[1]), {})[match[2]] = value
    return own, folds
