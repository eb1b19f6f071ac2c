"""The test fold of a sweep: read when it is first looked at. Every model that is tested on it is one look."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet, Split
from platform.evaluation.test_result import TestResult
from platform.sweeps.journal import Event, Journal, SweepRecord
from trainables.bootstrap import Floats, bootstrap_intervals, resample
from trainables.evaluation import Evaluation
from trainables.metrics import score
from trainables.paired_bootstrap import Difference, paired_difference

PREDICTIONS_FILE = "test_predictions.npz"


class HeldOut:
    """Tests models, keeps their predictions, and counts the looks in the journal.

    Args:
        read: reads the test fold.
        seed: of the bootstrap: the same resamples for every model.
    """

    def __init__(
        self, read: Callable[[], Split], label_set: LabelSet, record: SweepRecord, journal: Journal, seed: int
    ) -> None:
        self._read, self._label_set, self._seed = read, label_set, seed
        self._record, self._journal = record, journal

    @cached_property
    def split(self) -> Split:
        """The records; to read them is no look, to test a model on them is."""
        return self._read()

    def test(self, evaluate: Callable[[Split], Evaluation], beta: float, folder: Path) -> dict[str, Any]:
        """Evaluate a model, and keep its predictions in `folder`; returns what `count` is to write down.

        Args:
            beta: of f_beta.
        """
        split = self.split
        result = evaluate(split)
        intervals = bootstrap_intervals(result, self._label_set, beta, split.patient_ids, self._seed)
        temporary = folder / f"new-{PREDICTIONS_FILE}"
        np.savez_compressed(
            temporary,
            record_ids=split.record_ids,
            patient_ids=split.patient_ids,
            labels_NK=result.labels_NK,
            predicted_NK=result.predicted_NK,
            thresholds_K=result.thresholds_K,
        )
        temporary.replace(folder / PREDICTIONS_FILE)
        return {
            "metrics": dict(result.scores.macro),
            "per_class": {name: dict(values) for name, values in result.scores.per_class.items()},
            "left_out": list(result.scores.left_out),
            "intervals": {name: list(interval) for name, interval in intervals.items()},
        }

    def count(self, trial: str = "", **body: Any) -> Event:
        """Write a look into the journal."""
        event = self._journal.append("tested", trial, look=len(self._record.tested) + 1, **body)
        self._record.apply(event)
        return event

    def result(self, folder: Path, tested: Mapping[str, Any]) -> TestResult:
        """Return the result of an earlier or a new look, whose predictions are in `folder`."""
        predictions = np.load(folder / PREDICTIONS_FILE)
        return TestResult(
            labels_NK=self._truth(predictions["labels_NK"]),
            probabilities_NK=predictions["predicted_NK"],
            label_names=self._label_set.names,
            metrics=tested["metrics"],
            intervals={name: tuple(interval) for name, interval in tested["intervals"].items()},
        )

    def difference(self, first: Path, other: Path, metric: str, beta: float) -> Difference | None:
        """Compare two models whose predictions are in these folders; None where the metric says nothing of them."""
        values, resampled = zip(*(self._resampled(folder, metric, beta) for folder in (first, other)), strict=True)
        if not all(np.isfinite(values_R).any() for values_R in resampled):
            return None
        return paired_difference(values[1] - values[0], *resampled)

    def _resampled(self, folder: Path, metric: str, beta: float) -> tuple[float, Floats]:
        kept = np.load(folder / PREDICTIONS_FILE)
        predicted_NK, labels_NK, thresholds_K = kept["predicted_NK"], kept["labels_NK"], kept["thresholds_K"]
        scores = score(predicted_NK, labels_NK, self._label_set, thresholds_K, beta)
        evaluation = Evaluation(scores, thresholds_K, predicted_NK, labels_NK)
        macro = resample(evaluation, self._label_set, beta, kept["patient_ids"], self._seed).macro
        return scores.macro.get(metric, float("nan")), macro.get(metric, np.array([np.nan]))

    def _truth(self, labels_NK: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one column a class, for multiclass too."""
        if self._label_set.task != "multiclass":
            return labels_NK
        return np.eye(self._label_set.n_outputs, dtype=np.float32)[labels_NK[:, 0].astype(np.int64)]
