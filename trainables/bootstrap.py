"""Bootstrap intervals of a split's metrics: records are drawn again by patient, with replacement.

A resample is a weight for every record: how often it was drawn. So the metrics of all resamples come from a few
matrix products and one sort a class; drawing the records themselves and scoring each resample anew takes minutes
for 71 labels. `metrics.score` defines the metrics, and a test holds these to it.

N: records, K: outputs, R: resamples, T: distinct predictions, from the largest down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet
from trainables.evaluation import Evaluation
from trainables.metrics import MACRO_NAMES

Floats = NDArray[np.float64]
ByMetric = dict[str, Floats]

MAX_DRAWS_A_RESAMPLE = 100
BLOCK_WEIGHTS = 2_000_000  # numbers in one block of weights_RN: 16 MB


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

    A resample has every class that the split itself can tell apart; one without is drawn again, a hundred times at
    most, and then scored without that class.

    Args:
        groups_N: patients; records of one are drawn together.
    """
    blocks = [
        resampled_scores(evaluation, label_set, beta, weights_RN)
        for weights_RN in _resamples(evaluation, label_set, groups_N, seed, n_resamples)
    ]
    tail = 100 * (1 - confidence) / 2
    intervals = {}
    for name in evaluation.scores.macro:
        values_R = np.concatenate([block[name] for block in blocks])
        values_R = values_R[np.isfinite(values_R)]
        if len(values_R):
            low, high = np.percentile(values_R, [tail, 100 - tail])
            intervals[name] = (float(low), float(high))
    return intervals


def resampled_scores(evaluation: Evaluation, label_set: LabelSet, beta: float, weights_RN: Floats) -> ByMetric:
    """Return the macro metrics of each resample, by name; NaN where a resample has no class to score."""
    if label_set.task == "regression":
        return _regression(evaluation, weights_RN)
    truth_NK, called_NK = _truth(evaluation, label_set), _called(evaluation, label_set)
    contrast_RK = _contrast(truth_NK, weights_RN)
    per_class = _decisions(truth_NK, called_NK, weights_RN, beta)
    accuracy_RK = per_class.pop("accuracy")
    ranking = [_ranking(evaluation.predicted_NK[:, k], truth_NK[:, k], weights_RN) for k in range(truth_NK.shape[1])]
    per_class |= {name: np.stack([values[name] for values in ranking], axis=1) for name in ranking[0]}
    macro = {MACRO_NAMES.get(name, name): _mean(values_RK, contrast_RK) for name, values_RK in per_class.items()}
    if label_set.task == "multiclass":
        macro["accuracy"] = (weights_RN @ (truth_NK * called_NK).sum(axis=1)) / weights_RN.sum(axis=1)
    else:
        macro["accuracy"] = accuracy_RK.mean(axis=1)
    return macro


# ------------------------------------------------------------------ drawing


def _resamples(
    evaluation: Evaluation, label_set: LabelSet, groups_N: NDArray[np.str_], seed: int, n_resamples: int
) -> Iterator[Floats]:
    """Yield blocks of weights_RN: how often each record was drawn."""
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
    truth_NK = _truth(evaluation, label_set)[:, expected_K]
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


def _truth(evaluation: Evaluation, label_set: LabelSet) -> Floats:
    if label_set.task == "multiclass":
        return np.eye(label_set.n_outputs)[evaluation.labels_NK[:, 0].astype(np.int64)]
    return (evaluation.labels_NK > 0.5).astype(np.float64)


def _called(evaluation: Evaluation, label_set: LabelSet) -> Floats:
    if label_set.task == "multiclass":
        called_NK: Floats = np.eye(label_set.n_outputs)[evaluation.predicted_NK.argmax(axis=1)]
        return called_NK
    return (evaluation.predicted_NK >= evaluation.thresholds_K).astype(np.float64)


def _decisions(truth_NK: Floats, called_NK: Floats, weights_RN: Floats, beta: float) -> ByMetric:
    tp = weights_RN @ (truth_NK * called_NK)
    fp, fn = weights_RN @ called_NK - tp, weights_RN @ truth_NK - tp
    tn = weights_RN.sum(axis=1, keepdims=True) - tp - fp - fn
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    return {
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "f_beta": _ratio((1 + beta**2) * tp, (1 + beta**2) * tp + fp + beta**2 * fn),
        "accuracy": _ratio(tp + tn, tp + fp + tn + fn),
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": _ratio(tp, tp + fp),
        "recall": recall,
        "specificity": specificity,
    }


def _ranking(predicted_N: Floats, truth_N: Floats, weights_RN: Floats) -> ByMetric:
    """Return the areas under one class's curves; meaningless where the resample has no contrast."""
    order_N = np.argsort(-predicted_N, kind="stable")
    last_T = np.flatnonzero(np.diff(predicted_N[order_N], append=np.nan))  # of equal predictions
    sorted_RN = weights_RN[:, order_N]
    called_RT = np.cumsum(sorted_RN, axis=1)[:, last_T]
    tp_RT = np.cumsum(sorted_RN * truth_N[order_N], axis=1)[:, last_T]
    fp_RT = called_RT - tp_RT
    recall_RT, fall_out_RT = _ratio(tp_RT, tp_RT[:, -1:]), _ratio(fp_RT, fp_RT[:, -1:])
    precision_RT = _ratio(tp_RT, called_RT, otherwise=1.0)  # where nothing is called yet
    return {
        "auroc": _trapezoids(recall_RT, fall_out_RT, first=0.0),
        "auprc": _trapezoids(precision_RT, recall_RT, first=1.0),
        "ap": (np.diff(recall_RT, axis=1, prepend=0.0) * precision_RT).sum(axis=1),
    }


def _trapezoids(y_RT: Floats, x_RT: Floats, first: float) -> Floats:
    """Return the area under a curve that begins at x = 0, y = `first`."""
    before_RT = np.concatenate([np.full((len(y_RT), 1), first), y_RT[:, :-1]], axis=1)
    area_R: Floats = (np.diff(x_RT, axis=1, prepend=0.0) * (y_RT + before_RT) / 2).sum(axis=1)
    return area_R


def _ratio(part: Floats, whole: Floats, otherwise: float = 0.0) -> Floats:
    whole = np.broadcast_to(whole, part.shape)
    ratio: Floats = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return ratio


def _mean(values_RK: Floats, present_RK: NDArray[np.bool_]) -> Floats:
    return _ratio((values_RK * present_RK).sum(axis=1), present_RK.sum(axis=1).astype(np.float64), otherwise=np.nan)


# ------------------------------------------------------------------ regression


def _regression(evaluation: Evaluation, weights_RN: Floats) -> ByMetric:
    labels_NK = evaluation.labels_NK.astype(np.float64)
    known_NK = ~np.isnan(labels_NK)
    n_RK = weights_RN @ known_NK
    error_NK = np.where(known_NK, evaluation.predicted_NK - labels_NK, 0.0)
    # Centred on the split's mean, or the squares of large targets would cancel.
    centre_K = np.where(known_NK, labels_NK, 0.0).sum(axis=0) / np.maximum(1, known_NK.sum(axis=0))
    centred_NK = np.where(known_NK, labels_NK - centre_K, 0.0)
    squares_RK = weights_RN @ error_NK**2
    spread_RK = weights_RN @ centred_NK**2 - n_RK * _ratio(weights_RN @ centred_NK, n_RK) ** 2
    mse_RK = _ratio(squares_RK, n_RK)
    known_RK, varies_RK = n_RK > 0, _varies(evaluation.labels_NK, weights_RN)
    return {
        "mae": _mean(_ratio(weights_RN @ np.abs(error_NK), n_RK), known_RK),
        "mse": _mean(mse_RK, known_RK),
        "rmse": _mean(np.sqrt(mse_RK), known_RK),
        "r2": _mean(1 - _ratio(squares_RK, spread_RK), varies_RK),
    }
