"""How the IESD-2024 contest scores yes/no answers: with its edge rules, by subject, and in points.

N: records, S: subjects. A ratio whose denominator is empty follows the contest: where a group has no positive record,
its sensitivity and PPV are 1; where it has some and none is called, its PPV is 0; likewise negatives, specificity and
NPV. F-beta is 0 where precision and recall both are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SCORES: Final = ("f1", "f_beta", "sensitivity", "specificity", "balanced_accuracy", "accuracy", "ppv", "npv")
GOOD_F_BETA: Final = 0.9  # a subject above it counts for the G score
ONE_SIDED_SHARE: Final = 0.99  # a classifier that calls more records than this alike is degenerate


@dataclass(frozen=True)
class Confusion:
    """Counts of each group: true positives, false negatives, false positives, true negatives, all (S,)."""

    tp: Floats
    fn: Floats
    fp: Floats
    tn: Floats

    @staticmethod
    def by_group(called_N: Bools, truth_N: Bools, group_N: NDArray[np.intp], n_groups: int) -> Confusion:
        """Count the records of each group; `group_N` numbers the groups from 0."""

        def count(mask_N: Bools) -> Floats:
            return np.bincount(group_N[mask_N], minlength=n_groups).astype(np.float64)

        return Confusion(
            tp=count(called_N & truth_N),
            fn=count(~called_N & truth_N),
            fp=count(called_N & ~truth_N),
            tn=count(~called_N & ~truth_N),
        )


def contest_scores(confusion: Confusion, beta: float = 2.0) -> dict[str, Floats]:
    """Return each of `SCORES` by group, (S,)."""
    sensitivity, ppv = _found_and_right(confusion.tp, confusion.fn, confusion.fp)
    specificity, npv = _found_and_right(confusion.tn, confusion.fp, confusion.fn)
    n_records = confusion.tp + confusion.fn + confusion.fp + confusion.tn
    return {
        "f1": _f_beta(ppv, sensitivity, 1.0),
        "f_beta": _f_beta(ppv, sensitivity, beta),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "accuracy": (confusion.tp + confusion.tn) / n_records,
        "ppv": ppv,
        "npv": npv,
    }


def _found_and_right(right: Floats, missed: Floats, wrong: Floats) -> tuple[Floats, Floats]:
    """Return the share of a class that was found, and the share of what was called it that is."""
    absent = right + missed == 0
    found = np.where(absent, 1.0, right / np.where(absent, 1.0, right + missed))
    called = right + wrong
    precise = np.where(called == 0, 0.0, right / np.where(called == 0, 1.0, called))
    return found, np.where(absent, 1.0, precise)


def _f_beta(precision: Floats, recall: Floats, beta: float) -> Floats:
    weighed = beta**2 * precision + recall
    return np.where(weighed == 0, 0.0, (1 + beta**2) * precision * recall / np.where(weighed == 0, 1.0, weighed))


def pooled_scores(called_N: Bools, truth_N: Bools, beta: float = 2.0) -> dict[str, float]:
    """Return each of `SCORES` over all records."""
    confusion = Confusion.by_group(called_N, truth_N, np.zeros(len(truth_N), np.intp), 1)
    return {name: float(value_S[0]) for name, value_S in contest_scores(confusion, beta).items()}


def subject_scores(called_N: Bools, truth_N: Bools, subject_N: NDArray[np.str_], beta: float = 2.0) -> dict[str, float]:
    """Return each of `SCORES` as its mean over subjects, and `g_score`: the share of subjects with F-beta over 0.9."""
    subjects, number_N = np.unique(subject_N, return_inverse=True)
    scores = contest_scores(Confusion.by_group(called_N, truth_N, number_N, len(subjects)), beta)
    means = {name: float(value_S.mean()) for name, value_S in scores.items()}
    return {**means, "g_score": float((scores["f_beta"] > GOOD_F_BETA).mean())}


def is_degenerate(called_N: Bools, truth_N: Bools) -> bool:
    """Whether the answers are those of a classifier that has learnt nothing.

    Its sensitivity or specificity is 0, or it calls over 99 % of the records alike.
    """
    n_called = int(called_N.sum())
    if max(n_called, len(called_N) - n_called) > ONE_SIDED_SHARE * len(called_N):
        return True
    scores: Mapping[str, float] = pooled_scores(called_N, truth_N)
    return scores["sensitivity"] == 0 or scores["specificity"] == 0


def contest_score(f_beta: float, g_score: float, latency_ms: float, size_kib: float) -> float:
    """Return the contest's points, 0 to 80; its other 20 were for a presentation.

    25 F + 15 G + 35 L + 5 M, each part from 0 to 1: F-beta and G score from 0.5 to 1, latency from 50 ms to 0.5 ms,
    memory (program and model in flash) from 1,000 KiB to 50 KiB.
    """
    parts = {
        25: (f_beta - 0.5) / 0.5,
        15: (g_score - 0.5) / 0.5,
        35: 1 - (latency_ms - 0.5) / (50 - 0.5),
        5: 1 - (size_kib - 50) / (1000 - 50),
    }
    return sum(points * min(1.0, max(0.0, share)) for points, share in parts.items())
