"""Bootstrap intervals of a split's metrics: records are drawn again by patient, with replacement.

N: records, K: outputs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet
from trainables.evaluation import Evaluation
from trainables.metrics import score

MAX_DRAWS_A_RESAMPLE = 100


def bootstrap_intervals(
    evaluation: Evaluation,
    label_set: LabelSet,
    beta: float,
    groups_N: NDArray[np.str_],
    seed: int,
    n_resamples: int = 200,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return each macro metric's percentile interval.

    A resample has every class that the split itself can tell apart; one without is drawn again.

    Args:
        groups_N: patients; records of one are drawn together.
    """
    rng = np.random.default_rng(seed)
    _, group_N = np.unique(groups_N, return_inverse=True)
    members = [np.flatnonzero(group_N == group) for group in range(group_N.max(initial=-1) + 1)]
    samples = [_resample(evaluation, label_set, beta, members, rng) for _ in range(n_resamples)]
    tail = 100 * (1 - confidence) / 2
    return {
        name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
        for name in evaluation.scores.macro
        if (values := [sample[name] for sample in samples if name in sample])
    }


def _resample(
    evaluation: Evaluation, label_set: LabelSet, beta: float, members: list[NDArray[np.int64]], rng: np.random.Generator
) -> dict[str, float]:
    for _ in range(MAX_DRAWS_A_RESAMPLE):
        drawn = rng.integers(len(members), size=len(members))
        index = np.concatenate([members[group] for group in drawn])
        scores = score(
            evaluation.predicted_NK[index], evaluation.labels_NK[index], label_set, evaluation.thresholds_K, beta
        )
        if set(scores.left_out) <= set(evaluation.scores.left_out):
            break
    return dict(scores.macro)
