"""What an evaluation found, as JSON and as a table; `platform.evaluation.page` draws it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset import LabelSet
from platform.evaluation.scorecard import Measured, Scorecard
from trainables.bootstrap import called_table, truth_table
from trainables.calibration import Reliability, reliability, top_reliability
from trainables.evaluation import Evaluation

MACRO = "macro"
TOP = "most probable class"
HEADLINES = ("auroc", "map", "f1", "accuracy", "r2", "mae")


@dataclass(frozen=True)
class EvaluationReport:
    """A model's answers on one split, and all that is measured of them.

    Attributes:
        header: model, data and circumstances, in the order to show.
        cards: of all records, then of each subgroup.
        notes: sentences that a reader must know.
    """

    header: Mapping[str, Any]
    label_set: LabelSet
    evaluation: Evaluation
    cards: tuple[Scorecard, ...]
    notes: tuple[str, ...]

    @property
    def whole(self) -> Scorecard:
        return self.cards[0]

    @property
    def headline(self) -> str:
        """The macro metric to show first."""
        return next(name for name in HEADLINES if name in self.whole.macro)

    @property
    def confusion(self) -> dict[str, NDArray[np.int64]]:
        """Counts by truth (rows) and decision (columns): no and yes of each label, or all classes under one name."""
        if self.label_set.task == "regression":
            return {}
        truth_NK, called_NK = (each(self.evaluation, self.label_set) for each in (truth_table, called_table))
        if self.label_set.task == "multiclass":
            return {self.label_set.name: (truth_NK.T @ called_NK).astype(np.int64)}
        return {name: _two_by_two(truth_NK[:, k], called_NK[:, k]) for k, name in enumerate(self.label_set.names)}

    @property
    def reliability(self) -> dict[str, Reliability]:
        """The calibration of each label's probability; for multiclass that of the most probable class first."""
        if self.label_set.task == "regression":
            return {}
        predicted_NK, truth_NK = self.evaluation.predicted_NK, truth_table(self.evaluation, self.label_set)
        bins = {TOP: top_reliability(predicted_NK, truth_NK)} if self.label_set.task == "multiclass" else {}
        names = self.label_set.names
        return bins | {name: reliability(predicted_NK[:, k], truth_NK[:, k]) for k, name in enumerate(names)}

    def to_json(self) -> str:
        """Return everything but the single records' answers."""
        fields = {
            **self.header,
            "labels": {"name": self.label_set.name, "task": self.label_set.task, "names": self.label_set.names},
            "thresholds": self._thresholds(),
            "groups": [asdict(card) for card in self.cards],
            "confusion": {name: counts.tolist() for name, counts in self.confusion.items()},
            "reliability": {name: _bins(bins) for name, bins in self.reliability.items()},
            "notes": self.notes,
        }
        return json.dumps(fields, indent=2, allow_nan=False) + "\n"

    def to_table(self) -> pd.DataFrame:
        """Return a row for each number: of all records and each subgroup, macro and of each label."""
        return pd.DataFrame(row for card in self.cards for row in _rows(card))

    def _thresholds(self) -> dict[str, float]:
        if self.label_set.task not in ("binary", "multilabel"):
            return {}
        return dict(zip(self.label_set.names, self.evaluation.thresholds_K.tolist(), strict=True))


def _two_by_two(truth_N: NDArray[np.float64], called_N: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount((2 * truth_N + called_N).astype(np.int64), minlength=4).reshape(2, 2)


def _bins(bins: Reliability) -> dict[str, Any]:
    return {
        "predicted": bins.predicted_B.tolist(),
        "observed": bins.observed_B.tolist(),
        "interval": bins.interval_B2.tolist(),
        "n_records": bins.n_B.tolist(),
    }


def _rows(card: Scorecard) -> Iterator[dict[str, Any]]:
    for label, metrics in {MACRO: card.macro, **card.per_label}.items():
        for metric, measured in metrics.items():
            yield _row(card, label, metric, measured)


def _row(card: Scorecard, label: str, metric: str, measured: Measured) -> dict[str, Any]:
    return {
        "attribute": card.attribute,
        "group": card.group,
        "label": label,
        "metric": metric,
        **asdict(measured),
        "n_records": card.n_records,
        "n_positive": None if label == MACRO else card.n_positive[label],
    }
