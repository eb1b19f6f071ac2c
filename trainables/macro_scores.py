"""Macro precision, recall and F1 over all classes, as scikit-learn's `average="macro"` has them.

Beside `trainables.metrics`, where a binary task has one class, the positive one: here its two classes count alike.

N: records, C: classes, R: resamples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data.dataset import LabelSet, Task
from trainables.bootstrap import Floats, called_table, truth_table
from trainables.curve_areas import ratio
from trainables.evaluation import Evaluation

NAMES = ("macro_precision", "macro_recall", "macro_f1")


def macro_names(task: Task) -> tuple[str, ...]:
    """Return the names of the scores that a task has."""
    return NAMES if task in ("binary", "multiclass") else ()


def macro_scores(evaluation: Evaluation, label_set: LabelSet) -> Mapping[str, float]:
    """Score the decisions of a binary or multiclass task; nothing for the others."""
    if label_set.task not in ("binary", "multiclass"):
        return {}
    weights_1N = np.ones((1, len(evaluation.labels_NK)))
    return {name: float(value_R[0]) for name, value_R in resampled_macro(evaluation, label_set, weights_1N).items()}


def resampled_macro(evaluation: Evaluation, label_set: LabelSet, weights_RN: Floats) -> Mapping[str, Floats]:
    """Return each score's values_R on resamples, given as how often each has a record.

    The means are over the classes that some record of a resample has or is called; a ratio of nothing is 0.
    """
    truth_NC, called_NC = class_tables(evaluation, label_set)
    hit_RC, n_RC, n_called_RC = (weights_RN @ table for table in (truth_NC * called_NC, truth_NC, called_NC))
    is_there_RC = n_RC + n_called_RC > 0
    values = (ratio(hit_RC, n_called_RC), ratio(hit_RC, n_RC), ratio(2 * hit_RC, n_RC + n_called_RC))
    return {
        name: (value_RC * is_there_RC).sum(axis=1) / is_there_RC.sum(axis=1)
        for name, value_RC in zip(NAMES, values, strict=True)
    }


def class_tables(evaluation: Evaluation, label_set: LabelSet) -> tuple[Floats, Floats]:
    """Return 0 or 1 for each record and class: what it is, and what it is called. A binary task has two classes."""
    truth_NK, called_NK = truth_table(evaluation, label_set), called_table(evaluation, label_set)
    if label_set.task == "multiclass":
        return truth_NK, called_NK
    return np.hstack([1 - truth_NK, truth_NK]), np.hstack([1 - called_NK, called_NK])
