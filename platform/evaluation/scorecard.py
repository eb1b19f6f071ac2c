"""All that is measured of a model's answers on one group of records: metrics with intervals, calibration included.

N: records, K: outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.counts import label_counts
from data.dataset import LabelSet
from trainables.bootstrap import N_RESAMPLES, draw_weights, percentile_interval, resample, truth_table
from trainables.calibration import brier_scores, reliability, top_reliability
from trainables.evaluation import Evaluation
from trainables.metrics import score


@dataclass(frozen=True)
class Measured:
    """A number with its 95 % interval; without one where none is known."""

    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(value: float, interval: tuple[float, float] | None) -> Measured:
        return Measured(value) if interval is None else Measured(value, *interval)


@dataclass(frozen=True)
class Scorecard:
    """A group of records: all, or one of `subgroups`.

    Attributes:
        n_patients: None where patients are unknown.
        n_positive: records of each label; known values of each target for regression.
        left_out: labels with one value only in the group, which no macro metric but accuracy, ECE and Brier counts.
    """

    attribute: str
    group: str
    n_records: int
    n_patients: int | None
    n_positive: Mapping[str, int]
    macro: Mapping[str, Measured]
    per_label: Mapping[str, Mapping[str, Measured]]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Scoring:
    """How groups of one split's records are scored.

    Attributes:
        evaluation: of the whole split.
        beta: of f_beta.
        patient_ids: records of one patient are drawn together.
        patients_known: whether those ids are patients.
        seed: of the bootstrap; resamples of a group depend on it and on the group's records alone.
    """

    evaluation: Evaluation
    label_set: LabelSet
    beta: float
    patient_ids: NDArray[np.str_]
    patients_known: bool
    seed: int
    n_resamples: int = N_RESAMPLES

    def score(self, attribute: str, group: str, mask_N: NDArray[np.bool_] | None = None) -> Scorecard:
        """Score the records of `mask_N`; without one, all."""
        mask_N = np.ones(len(self.patient_ids), np.bool_) if mask_N is None else mask_N
        own, patient_ids, label_set = self._take(mask_N), self.patient_ids[mask_N], self.label_set
        macro, per_label = self._metrics(own, patient_ids)
        if label_set.task != "regression":
            self._add_calibration(own, patient_ids, macro, per_label)
        return Scorecard(
            attribute=attribute,
            group=group,
            n_records=len(patient_ids),
            n_patients=len(np.unique(patient_ids)) if self.patients_known else None,
            n_positive=dict(zip(label_set.names, label_counts(own.labels_NK, label_set), strict=True)),
            macro=macro,
            per_label=per_label,
            left_out=own.scores.left_out,
        )

    def _take(self, mask_N: NDArray[np.bool_]) -> Evaluation:
        whole = self.evaluation
        predicted_NK, labels_NK = whole.predicted_NK[mask_N], whole.labels_NK[mask_N]
        scores = score(predicted_NK, labels_NK, self.label_set, whole.thresholds_K, self.beta)
        return Evaluation(scores, whole.thresholds_K, predicted_NK, labels_NK)

    def _metrics(
        self, own: Evaluation, patient_ids: NDArray[np.str_]
    ) -> tuple[dict[str, Measured], dict[str, dict[str, Measured]]]:
        drawn = resample(own, self.label_set, self.beta, patient_ids, self.seed, self.n_resamples)
        macro = {
            name: Measured.of(value, percentile_interval(drawn.macro[name])) for name, value in own.scores.macro.items()
        }
        per_label = {
            label: {
                name: Measured.of(value, percentile_interval(drawn.per_class[name][:, k]))
                for name, value in own.scores.per_class.get(label, {}).items()
            }
            for k, label in enumerate(self.label_set.names)
        }
        return macro, per_label

    def _add_calibration(
        self,
        own: Evaluation,
        patient_ids: NDArray[np.str_],
        macro: dict[str, Measured],
        per_label: Mapping[str, dict[str, Measured]],
    ) -> None:
        """Add `brier`, and `ece` without an interval: a resample's is too large, as its bins are noisier."""
        truth_NK = truth_table(own, self.label_set)
        draws = draw_weights(own, self.label_set, patient_ids, self.seed, self.n_resamples)
        brier_RK = np.concatenate([brier_scores(own.predicted_NK, truth_NK, weights_RN) for weights_RN in draws])
        brier_K = brier_scores(own.predicted_NK, truth_NK, np.ones((1, len(truth_NK))))[0]
        ece_K = [reliability(own.predicted_NK[:, k], truth_NK[:, k]).error for k in range(len(brier_K))]
        macro["brier"] = Measured.of(float(brier_K.mean()), percentile_interval(brier_RK.mean(axis=1)))
        macro["ece"] = Measured(float(np.mean(ece_K)))
        if self.label_set.task == "multiclass":
            macro["top_label_ece"] = Measured(top_reliability(own.predicted_NK, truth_NK).error)
        for k, label in enumerate(self.label_set.names):
            per_label[label]["brier"] = Measured.of(float(brier_K[k]), percentile_interval(brier_RK[:, k]))
            per_label[label]["ece"] = Measured(ece_K[k])
