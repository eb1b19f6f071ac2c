"""What is known of a trained model beside its weights, and how it is built again.

K: labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.card import DataCard
from trainables.method import Method

BEST_FOLDER, CARD_NAME, WEIGHTS_NAME = "best", "config.json", "model.safetensors"


class ModelCard(BaseModel):
    """What is known of a trained model beside its weights. Stored as `best/config.json`.

    Attributes:
        params: the method's whole configuration, dotted keys.
        thresholds: of each label, fitted on the validation folds.
        val: metrics on the validation folds at the epoch of the weights.
        folds: of a cross-validation: the model is the mean of so many, `thresholds` and `val` are the means of theirs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweep: str
    trial: str
    method: str
    params: dict[str, Any]
    seed: int
    data: DataCard
    thresholds: dict[str, float]
    val: dict[str, float]
    folds: int | None = None

    @property
    def thresholds_K(self) -> NDArray[np.float64]:
        return np.array([self.thresholds[name] for name in self.data.label_set.names])

    def method_and_config(self) -> tuple[Method, Any]:
        """Return the method as its trials ran it, and its configuration."""
        # Here: a method of the table may itself be built on trained models.
        from trainables.cross_validation import training_method

        method = training_method(self.method, self.folds)
        return method, method.parse_config(self.params)


def read_card(path: Path) -> ModelCard:
    """Read a `best/config.json`.

    Raises:
        ValueError: it is not there, or is none.
    """
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path} is not there; give the folder of a sweep that has ended, or its best/") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {key}: {first['msg']}; it is of another version") from None
