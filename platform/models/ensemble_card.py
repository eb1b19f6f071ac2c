"""What is known of a sweep's ensemble, without its members' weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.card import DataCard
from platform.models.trained_model import CARD_NAME
from trainables.ensemble_onnx import Cost

ENSEMBLE_FOLDER = "ensemble"  # in the sweep's
ONNX_FILE = "model.onnx"


class EnsembleCard(BaseModel):
    """The members of an ensemble, what it is worth on validation, and what it costs. Stored as `ensemble/config.json`.

    Attributes:
        metric: the members were chosen by it, on the validation folds.
        candidates: trials with a checkpoint, best first: the best of the sweep is the first.
        weights: of each chosen trial; their sum is 1.
        thresholds: of each label, fitted on the validation folds.
        val: metrics on the validation folds.
        best_val: `metric` of the sweep's best trial alone, measured in the same way.
        onnx_difference: the largest from PyTorch's answers; None where the ensemble is too large for an ONNX file.
        best_cost: of the best trial alone, measured in the same way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: str
    metric: str
    candidates: tuple[str, ...]
    weights: dict[str, float]
    thresholds: dict[str, float]
    val: dict[str, float]
    best_val: float
    data: DataCard
    onnx_difference: float | None
    cost: Cost
    best_cost: Cost

    @property
    def is_best_alone(self) -> bool:
        return tuple(self.weights) == self.candidates[:1]

    @property
    def thresholds_K(self) -> NDArray[np.float64]:
        return np.array([self.thresholds[name] for name in self.data.label_set.names])


def read_ensemble_card(folder: Path) -> EnsembleCard | None:
    """Read the card in an ensemble's folder; None where there is none, or it is of another version."""
    try:
        return EnsembleCard.model_validate_json((folder / CARD_NAME).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
