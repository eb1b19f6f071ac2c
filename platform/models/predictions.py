"""Predictions of records as the rows of a table, with what is called at the model's thresholds.

N: records, K: labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from platform.models.trained_model import ModelCard

SEPARATOR = "; "  # of called labels


@dataclass(frozen=True)
class Prediction:
    """The answer for one record: probabilities_K, or values_K in the targets' units."""

    record_id: str
    predicted_K: NDArray[np.float64]


@dataclass(frozen=True)
class Caller:
    """Turns probabilities into what is called: each label at its threshold, or the most probable class."""

    card: ModelCard

    def called(self, predicted_K: NDArray[np.float64]) -> tuple[int, ...]:
        """Return the numbers of the called labels; of regression none."""
        task = self.card.data.label_set.task
        if task == "regression":
            return ()
        if task == "multiclass":
            return (int(predicted_K.argmax()),)
        return tuple(np.flatnonzero(predicted_K >= self.card.thresholds_K).tolist())

    def text(self, predicted_K: NDArray[np.float64]) -> str:
        """Return the names of the called labels."""
        return SEPARATOR.join(self.card.data.label_set.names[label] for label in self.called(predicted_K))

    def foremost(self, predicted_K: NDArray[np.float64]) -> int:
        """Return the label that a picture explains: the most probable of those called, or of all; the first value."""
        if self.card.data.label_set.task == "regression":
            return 0
        called = self.called(predicted_K) or range(len(predicted_K))
        return max(called, key=lambda label: float(predicted_K[label]))

    def title(self, prediction: Prediction, most: int = 3) -> str:
        """Return one line on a record: what is called, and the highest probabilities."""
        label_set, predicted_K = self.card.data.label_set, prediction.predicted_K
        if label_set.task == "regression":
            named = zip(columns(self.card), predicted_K.tolist(), strict=True)
            values = [f"{name} {value:.4g}" for name, value in named][:most]
            return f"{prediction.record_id}    {'   '.join(values)}"
        order = np.argsort(-predicted_K)[:most].tolist()
        shares = "   ".join(f"{label_set.names[label]} {predicted_K[label]:.3f}" for label in order)
        return f"{prediction.record_id}    called: {self.text(predicted_K) or 'none'}    {shares}"


def columns(card: ModelCard) -> tuple[str, ...]:
    """Return the labels' columns; a value's has its unit."""
    label_set = card.data.label_set
    units = label_set.units or ("",) * label_set.n_outputs
    return tuple(f"{name} ({unit})" if unit else name for name, unit in zip(label_set.names, units, strict=True))


def write_predictions(file: IO[str], predictions: Iterable[Prediction], card: ModelCard) -> None:
    """Write a table as CSV: `record_id`, a column a label, and `called` where the task has decisions."""
    caller, has_calls = Caller(card), card.data.label_set.task != "regression"
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["record_id", *columns(card), *(["called"] if has_calls else [])])
    for each in predictions:
        values = [f"{value:.6g}" for value in each.predicted_K.tolist()]
        writer.writerow([each.record_id, *values, *([caller.text(each.predicted_K)] if has_calls else [])])
