"""Bootstrap intervals of a split's metrics: records are drawn again by patient, with replacement.

A resample is a weight for every record: how often it was drawn. So the metrics of all resamples come from a few
matrix products and one sort a class; drawing the records themselves and scoring each resample anew takes minutes
for 71 labels. `metrics.score` defines the metrics, and a test holds these to it.

N: records, K: outputs, R: resamples, T: distinct predictions, from the largest down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet
from trainables.curve_areas import curve_areas, ratio
from trainables.evaluation import Evaluation
from trainables.metrics import MACRO_NAMES

Floats = NDArray[np.float64]
ByMetric = dict[str, Floats]

N_RESAMPLES = 200
MAX_DRAWS_A_RESAMPLE = 100
BLOCK_WEIGHTS = 2_000_000  # numbers in one block of weights_RN: 16 MB


@dataclass(frozen=True)
class ResampledScores:
    """Metrics of R resamples; NaN where a resample has nothing to score.

    Attributes:
        macro: values_R by metric.
        per_class: values_RK by metric, under the names of `Scores.per_class`.
    """

    macro: Mapping[str, Floats]
    per_class: Mapping[str, Floats]


def bootstrap_intervals(
    evaluation: Evaluation,
    label_set: LabelSet,
    beta: float,
    groups_N: NDArray[np.str_],
    seed: int,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Return each macro metric's percentile interval; arguments as `resample`."""
    macro = resample(evaluation, label_set, beta, groups_N, seed, n_resamples).macro
    found = {name: percentile_interval(macro[name], confidence) for name in evaluation.scores.macro}
    return {name: interval for name, interval in found.items() if interval is not None}


def percentile_interval(values_R: Floats, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of the finite values; None where there is none."""
    values_R = values_R[np.isfinite(values_R)]
    if not len(values_R):
        return None
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values_R, [tail, 100 - tail])
    return float(low), float(high)


def resample(
    evaluation: Evaluation,
    label_set: LabelSet,
    beta: float,
    groups_N: NDArray[np.str_],
    seed: int,
    n_resamples: int = N_RESAMPLES,
) -> ResampledScores:
    """Score resamples of a split, whose draw depends on its labels, `groups_N` and `seed` but not on the predictions.

    Args:
        groups_N: patients; records of one are drawn together.
    """
    draws = draw_weights(evaluation, label_set, groups_N, seed, n_resamples)
    blocks = [resampled_scores(evaluation, label_set, beta, weights_RN) for weights_RN in draws]
    return ResampledScores(
        {name: np.concatenate([block.macro[name] for block in blocks]) for name in blocks[0].macro},
        {name: np.concatenate([block.per_class[name] for block in blocks]) for name in blocks[0].per_class},
    )


def resampled_scores(evaluation: Evaluation, label_set: LabelSet, beta: float, weights_RN: Floats) -> ResampledScores:
    """Score each resample, given as how often it has each record."""
    if label_set.task == "regression":
        return _regression(evaluation, weights_RN)
    truth_NK, called_NK = truth_table(evaluation, label_set), called_table(evaluation, label_set)
    contrast_RK = _contrast(truth_NK, weights_RN)
    per_class = _decisions(truth_NK, called_NK, weights_RN, beta)
    accuracy_RK = per_class.pop("accuracy")
    areas = [curve_areas(evaluation.predicted_NK[:, k], truth_NK[:, k], weights_RN) for k in range(truth_NK.shape[1])]
    per_class |= {name: np.stack([values[name] for values in areas], axis=1) for name in areas[0]}
    macro = {MACRO_NAMES.get(name, name): _mean(values_RK, contrast_RK) for name, values_RK in per_class.items()}
    if label_set.task == "multiclass":
        macro["accuracy"] = (weights_RN @ (truth_NK * called_NK).sum(axis=1)) / weights_RN.sum(axis=1)
    else:
        macro["accuracy"] = accuracy_RK.mean(axis=1)
    known = {name: np.where(contrast_RK, values_RK, np.nan) for name, values_RK in per_class.items()}
    return ResampledScores(macro, {**known, "accuracy": accuracy_RK})


# ------------------------------------------------------------------ drawing


def draw_weights(
    evaluation: Evaluation, label_set: LabelSet, groups_N: NDArray[np.str_], seed: int, n_resamples: int
) -> Iterator[Floats]:
    """Yield blocks of weights_RN: how often each record was drawn.

    A resample has every class that the split itself can tell apart; one without is drawn again, a hundred times at
    most, and then scored without that class.
    """
    rng = np.random.default_rng(seed)
    _, group_N = np.unique(groups_N, return_inverse=True)
    is_whole = _completeness(evaluation, label_set)
    block_size = max(1, BLOCK_WEIGHTS // max(1, len(group_N)))
    for start in range(0, n_resamples, block_size):
        size = min(block_size, n_resamples - start)
        yield np.stack([_draw(group_N, is_whole, rng) for _ in range(size)])


def _draw(group_N: NDArray[np.int64], is_whole: Callable[[Floats], bool], rng: np.random.Generator) -> Floats:
    n_groups = int(group_N.max(initial=-1)) + 1
    weights_N = np.zeros(len(group_N))
    for _ in range(MAX_DRAWS_A_RESAMPLE):
        times_drawn = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        weights_N = times_drawn[group_N].astype(np.float64)
        if is_whole(weights_N):
            break
    return weights_N


def _completeness(evaluation: Evaluation, label_set: LabelSet) -> Callable[[Floats], bool]:
    """Return whether a resample, given as weights_N, tells apart every class that the split does."""
    expected_K = np.array([name not in evaluation.scores.left_out for name in label_set.names])
    if label_set.task == "regression":
        labels_NK = evaluation.labels_NK[:, expected_K]
        return lambda weights_N: bool(_varies(labels_NK, weights_N[None]).all())
    truth_NK = truth_table(evaluation, label_set)[:, expected_K]
    return lambda weights_N: bool(_contrast(truth_NK, weights_N[None]).all())


def _contrast(truth_NK: Floats, weights_RN: Floats) -> NDArray[np.bool_]:
    positives_RK = weights_RN @ truth_NK
    mask_RK: NDArray[np.bool_] = (positives_RK > 0) & (positives_RK < weights_RN.sum(axis=1, keepdims=True))
    return mask_RK


def _varies(labels_NK: NDArray[np.float32], weights_RN: Floats) -> NDArray[np.bool_]:
    """Return where the known labels that were drawn are not all equal."""
    drawn_RN = weights_RN > 0
    low_NK, high_NK = (np.where(np.isnan(labels_NK), end, labels_NK) for end in (np.inf, -np.inf))
    lows = [np.where(drawn_RN, low_NK[:, k], np.inf).min(axis=1) for k in range(labels_NK.shape[1])]
    highs = [np.where(drawn_RN, high_NK[:, k], -np.inf).max(axis=1) for k in range(labels_NK.shape[1])]
    return np.array(lows).T < np.array(highs).T


# ------------------------------------------------------------------ classification


def truth_table(evaluation: Evaluation, label_set: LabelSet) -> Floats:
    """Return 0 or 1 for each record and class, for multiclass too."""
    if label_set.task == "multiclass":
        return np.eye(label_set.n_outputs)[evaluation.labels_NK[:, 0].astype(np.int64)]
    return (evaluation.labels_NK > 0.5).astype(np.float64)


def called_table(evaluation: Evaluation, label_set: LabelSet) -> Floats:
    """Return the decisions, 0 or 1 for each record and class: by threshold, or the most probable class."""
    if label_set.task == "multiclass":
        called_NK: Floats = np.eye(label_set.n_outputs)[evaluation.predicted_NK.argmax(axis=1)]
        return called_NK
    return (evaluation.predicted_NK >= evaluation.thresholds_K).astype(np.float64)


def _decisions(truth_NK: Floats, called_NK: Floats, weights_RN: Floats, beta: float) -> ByMetric:
    tp = weights_RN @ (truth_NK * called_NK)
    fp, fn = weights_RN @ called_NK - tp, weights_RN @ truth_NK - tp
    tn = weights_RN.sum(axis=1, keepdims=True) - tp - fp - fn
    recall, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "f_beta": ratio((1 + beta**2) * tp, (1 + beta**2) * tp + fp + beta**2 * fn),
        "accuracy": ratio(tp + tn, tp + fp + tn + fn),
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": ratio(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
    }


def _mean(values_RK: Floats, present_RK: NDArray[np.bool_]) -> Floats:
    return ratio(
        np.where(present_RK, values_RK, 0.0).sum(axis=1), present_RK.sum(axis=1).astype(np.float64), otherwise=np.nan
    )


# ------------------------------------------------------------------ regression


def _regression(evaluation: Evaluation, weights_RN: Floats) -> ResampledScores:
    labels_NK = evaluation.labels_NK.astype(np.float64)
    known_NK = ~np.isnan(labels_NK)
    n_RK = weights_RN @ known_NK
    error_NK = np.where(known_NK, evaluation.predicted_NK - labels_NK, 0.0)
    # Centred on the split's mean, or the squares of large targets would cancel.
    centre_K = np.where(known_NK, labels_NK, 0.0).sum(axis=0) / np.maximum(1, known_NK.sum(axis=0))
    centred_NK = np.where(known_NK, labels_NK - centre_K, 0.0)
    squares_RK = weights_RN @ error_NK**2
    spread_RK = weights_RN @ centred_NK**2 - n_RK * ratio(weights_RN @ centred_NK, n_RK) ** 2
    mse_RK = ratio(squares_RK, n_RK)
    known_RK, varies_RK = n_RK > 0, _varies(evaluation.labels_NK, weights_RN)
    r2_RK = 1 - ratio(squares_RK, spread_RK)
    per_class = {"mae": ratio(weights_RN @ np.abs(error_NK), n_RK), "mse": mse_RK, "rmse": np.sqrt(mse_RK)}
    known = {name: np.where(known_RK, values_RK, np.nan) for name, values_RK in per_class.items()}
    known["r2"] = np.where(varies_RK, r2_RK, np.nan)
    macro = {name: _mean(values_RK, np.isfinite(values_RK)) for name, values_RK in known.items()}
    return ResampledScores(macro, known)
