"""A trained model of this platform as an expert: what it predicts for the records.

B: records, R: windows, L: leads, T: timesteps, K: outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from data.dataset import Signal
from trainables.checkpoint import load_weights
from trainables.deployed_model import DeployedModel, cut_chain
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import ExpertInput
from trainables.experts.outside_steps import apply_outside
from trainables.experts.window_expert import WindowExpert
from trainables.model_card import BEST_FOLDER, CARD_NAME, WEIGHTS_NAME, ModelCard, read_card


class TrainedConfig(ExpertConfig):
    """A model that a sweep has trained, prepared as it was trained, of the same leads and rate."""

    available: ClassVar[tuple[str, ...]] = ("predictions",)

    kind: Literal["trained"] = "trained"
    weights: str = Field(
        min_length=1,
        description="Whose model: a sweep's folder or its best/, such as runs/NAME; in a chain {from: STAGE.best}.",
    )
    features: tuple[str, ...] = Field(
        ("predictions",),
        strict=False,
        min_length=1,
        description="predictions: probabilities of its labels, or of a regression its values.",
    )


class Trained(WindowExpert):
    """predictions: the model's outputs. A record longer than those that it was trained on is cut into such windows."""

    config: TrainedConfig

    def __init__(self, config: TrainedConfig, signal: Signal) -> None:
        folder = _find(Path(config.weights).expanduser())
        card = read_card(folder / CARD_NAME)
        if card.data.label_set.task == "unlabelled":
            raise ValueError(
                f"weights: {folder} is of a pretraining ({card.method}), which predicts nothing; give it to an expert "
                "of its network, or name a model that was trained on labels"
            )
        method, model_config = card.method_and_config()
        own = card.data.input_signal
        wanted = ExpertInput(own.lead_names, own.fs_hz, own.n_timesteps, "none")
        super().__init__(config, signal, {"predictions": card.data.label_set.n_outputs}, wanted)
        self._weights, self._card = folder / WEIGHTS_NAME, card
        self._chain = cut_chain(card.data.preprocess)
        network = method.build_model(model_config, card.data.signal, card.data.label_set)
        self._finish = method.finish
        self.model = DeployedModel(network, model_config, card.data)

    def load(self) -> None:
        self.model.network.load_state_dict(load_weights(self._weights))
        self.model.network = self._finish(self.model.network.eval())

    @property
    def card(self) -> ModelCard:
        """What is known of the model."""
        return self._card

    @property
    def preparation(self) -> object:
        data = self._card.data
        return self._card.method, self._card.params, data.preprocess, data.statistics, data.input_signal

    @property
    def not_exported_since(self) -> str | None:
        if not self._chain.before:
            return None
        names = ", ".join(next(iter(step.model_dump())) for step in self._chain.before)
        return f"{self.config.weights} prepares records by {names} outside of a graph"

    def encode(self, ecg_RLT: Tensor, is_signal_RT: Tensor) -> Mapping[str, Tensor]:
        if self._chain.before:
            ecg_RLT, _ = apply_outside(self._chain.before, None, ecg_RLT, self._card.data.input_signal)
        return {"predictions": self.model(ecg_RLT)}


def _find(place: Path) -> Path:
    return place if (place / CARD_NAME).exists() else place / BEST_FOLDER
