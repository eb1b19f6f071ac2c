"""Normal or abnormal: the target of AdaGrad-Fusion's auxiliary head.

The original's target is "any label", and as its records all have one, sinus rhythm among them, it is always 1. Here a
record is abnormal where it has a label that is not a normal one.

N: records, K: labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet

NORMAL_NAMES = ("NORM", "NSR", "SR", "normal", "normal_ecg", "sinus")
"""What the label sets of this project call a normal record or rhythm; upper and lower case are alike."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Abnormality:
    """Which labels of a label set are normal."""

    label_set: LabelSet
    normal_K: tuple[bool, ...]

    @staticmethod
    def of(label_set: LabelSet, normal_labels: tuple[str, ...] | None = None) -> Abnormality:
        """Take `normal_labels` as the normal ones; None: those of `NORMAL_NAMES`, which may be none.

        Raises:
            ValueError: the label set is one of values, or lacks one of `normal_labels`.
        """
        if label_set.task == "regression":
            raise ValueError("aux_weight works with classes, but the labels are regression; set aux_weight to 0")
        unknown = sorted(set(normal_labels or ()) - set(label_set.names))
        if unknown:
            raise ValueError(
                f"normal_labels must be among the labels {', '.join(label_set.names)}, but got {unknown[0]!r}"
            )
        if normal_labels is not None:
            return Abnormality(label_set, tuple(name in normal_labels for name in label_set.names))
        known = {name.lower() for name in NORMAL_NAMES}
        return Abnormality(label_set, tuple(name.lower() in known for name in label_set.names))

    def of_labels(self, labels_NK: Array) -> Array:
        """Return abnormal_N of stored labels: 1 where a record has a label that is not normal, 0 elsewhere."""
        if self.label_set.task == "multiclass":
            return self.of_targets(np.eye(self.label_set.n_outputs, dtype=np.float32)[labels_NK[:, 0].astype(np.int64)])
        return self.of_targets(labels_NK)

    def of_targets(self, targets_NK: Array) -> Array:
        """Return abnormal_N of targets, in which classes are rows of 0 and 1."""
        abnormal_NK = targets_NK[:, ~np.array(self.normal_K)] > 0.5
        return np.asarray(abnormal_NK.any(axis=1), np.float32)

    def check(self, labels_NK: Array) -> None:
        """Refuse training records that are all normal or all abnormal: the head would learn a constant.

        Raises:
            ValueError: they are.
        """
        abnormal_N = self.of_labels(labels_NK)
        if abnormal_N.min(initial=1) < abnormal_N.max(initial=0):
            return
        which = "abnormal" if abnormal_N.any() else "normal"
        normal = ", ".join(
            name for name, is_normal in zip(self.label_set.names, self.normal_K, strict=True) if is_normal
        )
        raise ValueError(
            f"the auxiliary head needs normal and abnormal training records, but all {len(labels_NK)} are {which} with "
            f"normal_labels: {normal or 'none'}; name the normal ones of {', '.join(self.label_set.names)} in "
            "normal_labels, or set aux_weight to 0"
        )


def resolve_threshold(positive_threshold: float | Literal["prevalence"], abnormal_N: Array) -> float:
    """Return the probability above which a record counts as abnormal: the number, or the share of abnormal records.

    The original takes the classes' mean prevalence, which is no share of abnormal records.
    """
    return float(abnormal_N.mean()) if positive_threshold == "prevalence" else positive_threshold
