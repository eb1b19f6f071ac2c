"""Metrics of a split, per class and macro, in float64: counts and errors by torchmetrics, areas by `curve_areas`.

N: records, K: outputs. A class that has one value only among the records (all positive, or none) says nothing
about discrimination: it is left out of every macro mean but accuracy's, named in `left_out`, and where no class
remains the metric is absent rather than 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import LabelSet, Task
from trainables.curve_areas import curve_areas

Floats = NDArray[np.float64]

_RANKING = ("auroc", "auprc", "ap")
_DECISIONS = ("f1", "f_beta", "accuracy", "balanced_accuracy", "precision", "recall", "specificity")
_REGRESSION = ("mae", "mse", "rmse", "r2")
MACRO_NAMES = {"ap": "map"}  # the mean of the classes' average precisions has a name of its own


@dataclass(frozen=True)
class Scores:
    """Metrics of one split: `macro` by metric, `per_class` by class and metric, and the classes without contrast."""

    macro: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    left_out: tuple[str, ...] = field(default=())


def import_torchmetrics() -> None:
    """Import torchmetrics, which takes 3 s and 100 MB.

    The modules of this package do so only when they score: the driver, which imports every method, never does.
    A trial calls this first, so that its first epoch's time and memory are its own.
    """
    import torchmetrics.functional.classification  # noqa: F401


def macro_names(task: Task) -> frozenset[str]:
    """Return the names of the macro metrics of a task; one without contrast in any class is absent from `Scores`."""
    if task == "unlabelled":
        return frozenset()
    names = _REGRESSION if task == "regression" else (*_RANKING, *_DECISIONS)
    return frozenset(MACRO_NAMES.get(name, name) for name in names)


def probabilities(logits_NK: NDArray[np.floating], task: Task) -> Floats:
    """Return probabilities_NK in float64, so that confident records do not become ties; regression: values as is."""
    logits = torch.from_numpy(np.asarray(logits_NK, dtype=np.float64))
    if task == "regression":
        return logits.numpy()
    return (torch.softmax(logits, dim=1) if task == "multiclass" else torch.sigmoid(logits)).numpy()


def score(
    predicted_NK: Floats, labels_NK: NDArray[np.float32], label_set: LabelSet, thresholds_K: Floats, beta: float
) -> Scores:
    """Score `probabilities` (or regressed values) against stored labels.

    auroc, auprc (area under the precision-recall curve, trapezoids), ap (its step-wise sum; macro `map`), f1,
    f_beta, accuracy, balanced_accuracy, precision, recall, specificity; for multiclass one class against the
    rest at the most probable class, and `accuracy` the share of right answers; mae, mse, rmse, r2 for regression, in
    the targets' units. Precision without any positive call is 0.
    """
    if label_set.task == "regression":
        return _score_regression(predicted_NK, labels_NK, label_set)
    if label_set.task == "multiclass":
        truth_NK = np.eye(label_set.n_outputs, dtype=np.int64)[labels_NK[:, 0].astype(np.int64)]
        called_NK = np.eye(label_set.n_outputs, dtype=np.int64)[predicted_NK.argmax(axis=1)]
    else:
        truth_NK = (labels_NK > 0.5).astype(np.int64)
        called_NK = (predicted_NK >= thresholds_K).astype(np.int64)
    truth, called = torch.from_numpy(truth_NK), torch.from_numpy(called_NK)
    contrast_K = (truth_NK.min(axis=0, initial=1) < truth_NK.max(axis=0, initial=0)).tolist()
    by_class = _decisions(called, truth, beta)
    per_class: dict[str, dict[str, float]] = {}
    for k, name in enumerate(label_set.names):
        ranking = _ranking(predicted_NK[:, k], truth_NK[:, k]) if contrast_K[k] else {}
        decided = {metric: float(values[k]) for metric, values in by_class.items()}
        per_class[name] = {**ranking, **(decided if contrast_K[k] else {"accuracy": decided["accuracy"]})}
    macro = _macro(per_class)
    if label_set.task == "multiclass":
        macro["accuracy"] = float((truth * called).sum()) / max(1, len(truth))
    left_out = tuple(name for name, contrast in zip(label_set.names, contrast_K, strict=True) if not contrast)
    return Scores(macro, per_class, left_out)


def _ranking(predicted_N: Floats, truth_N: NDArray[np.int64]) -> dict[str, float]:
    areas = curve_areas(predicted_N, truth_N.astype(np.float64), np.ones((1, len(truth_N))))
    return {metric: float(value) for metric, (value,) in areas.items()}


def _decisions(called_NK: Tensor, truth_NK: Tensor, beta: float) -> dict[str, Tensor]:
    """Return each metric of yes/no decisions by class; 0 where its denominator is."""
    from torchmetrics.functional.classification import multilabel_stat_scores

    # torchmetrics asks for two labels at least; the second column of a binary task is dropped again
    n_classes = truth_NK.shape[1]
    if n_classes == 1:
        called_NK, truth_NK = called_NK.repeat(1, 2), truth_NK.repeat(1, 2)
    counts_K5 = multilabel_stat_scores(called_NK, truth_NK, num_labels=max(2, n_classes), average=None)[:n_classes]
    tp, fp, tn, fn, _ = counts_K5.double().unbind(dim=1)

    def ratio(part: Tensor, whole: Tensor) -> Tensor:
        return torch.where(whole > 0, part / whole.clamp(min=1e-12), torch.zeros_like(part))

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


def _score_regression(values_NK: Floats, labels_NK: NDArray[np.float32], label_set: LabelSet) -> Scores:
    from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error, r2_score

    per_class: dict[str, dict[str, float]] = {}
    left_out = []
    for k, name in enumerate(label_set.names):
        known = ~np.isnan(labels_NK[:, k])
        value = torch.from_numpy(values_NK[known, k])
        truth = torch.from_numpy(labels_NK[known, k].astype(np.float64))
        if len(truth) == 0:
            left_out.append(name)
            continue
        mse = float(mean_squared_error(value, truth))
        per_class[name] = {"mae": float(mean_absolute_error(value, truth)), "mse": mse, "rmse": mse**0.5}
        if len(truth) > 1 and truth.min() < truth.max():
            per_class[name]["r2"] = float(r2_score(value, truth))
        else:
            left_out.append(name)
    return Scores(_macro(per_class), per_class, tuple(left_out))


def _macro(per_class: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(metric for scores in per_class.values() for metric in scores)
    columns = {metric: [s[metric] for s in per_class.values() if metric in s] for metric in names}
    return {MACRO_NAMES.get(metric, metric): float(np.mean(values)) for metric, values in columns.items()}
