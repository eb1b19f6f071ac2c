"""The Pareto front of a sweep's trials: its axes, and the trials that no other dominates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from platform.specs.quantities import MEASURED_QUANTITIES, Mode, better
from platform.sweeps.journal import TrialRecord
from platform.sweeps.leaderboard import pareto_front
from platform.sweeps.study_db import Objectives, outcome_quantities

if TYPE_CHECKING:
    from platform.specs.spec import Spec

Axes = Sequence[tuple[str, Mode]]
"""(quantity, which way it is better)."""


def front_axes(spec: Spec) -> Axes:
    """Return what models compete in: the objectives, what the targets name, and the bytes of the ONNX file.

    The smallest model that meets the targets is then on the front, since whatever dominates it meets them too.
    """
    axes: dict[str, Mode] = {objective.metric: objective.mode for objective in spec.search.objectives}
    for target in spec.choosing_targets:
        axes.setdefault(target.quantity, better(target.quantity))
    axes.setdefault("onnx_bytes", "min")
    return [(name, mode) for name, mode in axes.items() if name not in MEASURED_QUANTITIES]


def front_of(trials: Sequence[TrialRecord], axes: Axes, objectives: Objectives) -> list[TrialRecord]:
    """Return the trials that none dominates, in the order given; one that lacks a number of an axis is left out.

    An axis of which no trial knows the number does not count.
    """
    known = [(trial, outcome_quantities(trial, objectives)) for trial in trials]
    used = [(name, mode) for name, mode in axes if any(name in quantities for _, quantities in known)]
    whole = [(trial, quantities) for trial, quantities in known if all(name in quantities for name, _ in used)]
    if not whole or not used:
        return []
    values_NM = np.array([[quantities[name] for name, _ in used] for _, quantities in whole], np.float64)
    on_front_N = pareto_front(values_NM, [mode for _, mode in used])
    return [trial for (trial, _), stays in zip(whole, on_front_N, strict=True) if stays]
