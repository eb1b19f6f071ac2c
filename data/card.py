"""What a model's user must know of the data that it was trained on: enough to prepare a new record in the same way."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from data.config import DataConfig
from data.dataset import LabelSet, Signal
from data.preprocessing import Step
from data.scaling import Statistics
from data.sharing import SharedDataset


class DataCard(BaseModel):
    """The data of a sweep, without its records. Stored as `data.json` in the sweep's folder, and beside every model.

    Attributes:
        config: the spec's `data` section.
        folds: role -> numbers of folds, those of the store or of `config.k_fold`.
        input_signal: of a record as the store has it, in mV, before `preprocess`.
        signal: after `preprocess`: what a method builds its model for.
        statistics: of the training folds, where `preprocess` ends with a z-score over all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: DataConfig
    fingerprint: str
    folds: dict[str, tuple[int, ...]]
    input_signal: Signal
    statistics: Statistics | None
    signal: Signal
    label_set: LabelSet

    @staticmethod
    def of(config: DataConfig, dataset: SharedDataset, fingerprint: str) -> DataCard:
        """Describe the data set that a sweep has loaded."""
        plan = dataset.plan
        fields: dict[str, Any] = {
            "config": config,
            "fingerprint": fingerprint,
            "folds": dict(plan.folds),
            "input_signal": plan.stored_signal,
            "statistics": dataset.statistics,
            "signal": plan.signal,
            "label_set": plan.label_set,
        }
        return DataCard.model_validate(fields)

    @property
    def preprocess(self) -> tuple[Step, ...]:
        return self.config.preprocess
