"""A trained model as one checked ONNX file that takes mV, with its thresholds and origin in the metadata."""

from __future__ import annotations

import json
from pathlib import Path

from platform.models.trained_model import TrainedModel
from trainables.deployed_onnx import Difference, check_deployed, export_deployed
from trainables.predictor import Predictor


def export_trained(trained: TrainedModel, path: Path) -> Difference:
    """Write a trained model as an ONNX file that takes mV, and check it.

    Raises:
        ArithmeticError: the file does not answer as PyTorch does.
    """
    card = trained.card
    predictor = Predictor(trained.model, trained.config, card.data)
    export_deployed(predictor, _notes(trained), path)
    difference = check_deployed(predictor, path)
    if not difference.largest <= difference.allowed:
        raise ArithmeticError(
            f"{path.name} differs from PyTorch by {difference.largest:.2e}, more than {difference.allowed:g}"
        )
    return difference


def _notes(trained: TrainedModel) -> dict[str, str]:
    card = trained.card
    return {
        "thresholds": json.dumps(card.thresholds),
        "sweep": card.sweep,
        "trial": card.trial,
        "method": card.method,
        "fingerprint": card.data.fingerprint,
    }
