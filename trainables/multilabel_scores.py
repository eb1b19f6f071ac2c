"""Scores of yes/no labels as H-Tuning and AdaGrad-Fusion report them, and the score of the Challenge 2021.

N: records, K: labels, C: classes of the Challenge.

Scores of one label are NaN where all records or none have it: it says nothing there, and is left out of the means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet, Task
from trainables.curve_areas import curve_areas, ratio
from trainables.evaluation import Evaluation

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

BETA = 2.0  # what a missed finding weighs against a false alarm
_OF_RECORDS: Final = ("ranking_loss", "coverage_error", "hamming_loss", "subset_accuracy")


@dataclass(frozen=True)
class MultilabelScores:
    """Scores of N records, per label (`*_K`) and of records as wholes.

    Attributes:
        f_beta_K: (1 + b^2) TP / ((1 + b^2) TP + FP + b^2 FN), with b = 2.
        g_beta_K: TP / (TP + FP + b FN).
        ranking_loss: share of the pairs (a label that a record has, one that it has not) in the wrong order.
        coverage_error: how many of the most probable labels hold all those that a record has.
        hamming_loss: share of wrong decisions.
        subset_accuracy: share of records with every decision right.
        loss: mean cross-entropy of the probabilities.
    """

    auroc_K: Floats
    ap_K: Floats
    f1_K: Floats
    f_beta_K: Floats
    g_beta_K: Floats
    ranking_loss: float
    coverage_error: float
    hamming_loss: float
    subset_accuracy: float
    loss: float


def score_multilabel(probability_NK: Floats, truth_NK: Flags, thresholds_K: Floats) -> MultilabelScores:
    """Score probabilities, and decisions at `thresholds_K` (fitted elsewhere), against the truth."""
    called_NK = probability_NK >= thresholds_K
    areas = [_areas(probability_NK[:, k], truth_NK[:, k]) for k in range(truth_NK.shape[1])]
    ranking_loss, coverage_error = _ranking(probability_NK, truth_NK)
    return MultilabelScores(
        auroc_K=np.array([auroc for auroc, _ in areas]),
        ap_K=np.array([ap for _, ap in areas]),
        f1_K=f_beta(called_NK, truth_NK, 1.0),
        f_beta_K=f_beta(called_NK, truth_NK, BETA),
        g_beta_K=g_beta(called_NK, truth_NK, BETA),
        ranking_loss=ranking_loss,
        coverage_error=coverage_error,
        hamming_loss=float((called_NK != truth_NK).mean()),
        subset_accuracy=float((called_NK == truth_NK).all(axis=1).mean()),
        loss=_cross_entropy(probability_NK, truth_NK),
    )


def validation_scores(evaluation: Evaluation, label_set: LabelSet) -> Mapping[str, float]:
    """Return what `score_multilabel` adds to the metrics of a validation; nothing where labels are not yes or no."""
    if not validation_names(label_set.task):
        return {}
    scores = score_multilabel(evaluation.predicted_NK, evaluation.labels_NK > 0.5, evaluation.thresholds_K)
    values = {"g_beta": macro(scores.g_beta_K), **{name: getattr(scores, name) for name in _OF_RECORDS}}
    return {name: value for name, value in values.items() if not math.isnan(value)}


def validation_names(task: Task) -> frozenset[str]:
    """Return the names that `validation_scores` may have."""
    return frozenset({"g_beta", *_OF_RECORDS} if task in ("binary", "multilabel") else ())


def macro(scores_K: Floats) -> float:
    """Return the mean of the labels that have a score; NaN where none has."""
    known_K = scores_K[~np.isnan(scores_K)]
    return float(known_K.mean()) if len(known_K) else float("nan")


def f_beta(called_NK: Flags, truth_NK: Flags, beta: float) -> Floats:
    """Return each label's F score, in which recall weighs `beta` times as much as precision."""
    tp_K, fp_K, fn_K = _counts(called_NK, truth_NK)
    weighted_K = (1 + beta**2) * tp_K
    return _with_contrast(ratio(weighted_K, weighted_K + fp_K + beta**2 * fn_K), truth_NK)


def g_beta(called_NK: Flags, truth_NK: Flags, beta: float) -> Floats:
    """Return each label's TP / (TP + FP + beta FN)."""
    tp_K, fp_K, fn_K = _counts(called_NK, truth_NK)
    return _with_contrast(ratio(tp_K, tp_K + fp_K + beta * fn_K), truth_NK)


def challenge_score(called_NC: Flags, truth_NC: Flags, weights_CC: Floats, normal: int) -> float:
    """Return the score of the PhysioNet/CinC Challenge 2021 (Reyna et al. 2021, doi:10.23919/CinC53138.2021.9662687).

    A record's decisions are spread over the pairs (a class that it has, a class that it was called), each weighing one
    over the number of classes that it has or was called, and rewarded by `weights_CC`. 1: everything right, 0: every
    record called normal.

    Args:
        normal: the class of sinus rhythm.
    """
    always_normal_NC = np.zeros_like(truth_NC)
    always_normal_NC[:, normal] = True
    best, least = (_reward(each, truth_NC, weights_CC) for each in (truth_NC, always_normal_NC))
    return (_reward(called_NC, truth_NC, weights_CC) - least) / (best - least) if best != least else 0.0


def _reward(called_NC: Flags, truth_NC: Flags, weights_CC: Floats) -> float:
    share_N1 = 1 / np.maximum(1, (called_NC | truth_NC).sum(axis=1, keepdims=True))
    pairs_CC = (truth_NC * share_N1).T @ called_NC.astype(np.float64)
    return float((weights_CC * pairs_CC).sum())


def _areas(probability_N: Floats, truth_N: Flags) -> tuple[float, float]:
    if truth_N.all() or not truth_N.any():
        return float("nan"), float("nan")
    areas = curve_areas(probability_N, truth_N.astype(np.float64), np.ones((1, len(truth_N))))
    return float(areas["auroc"][0]), float(areas["ap"][0])


def _counts(called_NK: Flags, truth_NK: Flags) -> tuple[Floats, Floats, Floats]:
    """Return true positives, false positives and false negatives of each label."""
    parts = (called_NK & truth_NK, called_NK & ~truth_NK, ~called_NK & truth_NK)
    tp_K, fp_K, fn_K = (part.sum(axis=0).astype(np.float64) for part in parts)
    return tp_K, fp_K, fn_K


def _with_contrast(scores_K: Floats, truth_NK: Flags) -> Floats:
    return np.where(truth_NK.any(axis=0) & ~truth_NK.all(axis=0), scores_K, np.nan)


def _ranking(probability_NK: Floats, truth_NK: Flags) -> tuple[float, float]:
    """Return ranking loss and coverage error; scikit-learn has no ranking of a single label."""
    if truth_NK.shape[1] == 1:
        return 0.0, float(truth_NK.mean())
    from sklearn.metrics import coverage_error, label_ranking_loss  # a second, which trials need not pay

    return float(label_ranking_loss(truth_NK, probability_NK)), float(coverage_error(truth_NK, probability_NK))


def _cross_entropy(probability_NK: Floats, truth_NK: Flags) -> float:
    right_NK = np.where(truth_NK, probability_NK, 1 - probability_NK)
    return float(-np.log(np.maximum(right_NK, np.finfo(np.float64).eps)).mean())
