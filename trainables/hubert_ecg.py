"""Fine-tuning HuBERT-ECG on labels (github.com/Edoar-do/HuBERT-ECG): the mean token, dropout and a small head.

B: records, L: leads, T: timesteps, H: hidden size, K: outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.dataset import Dataset, LabelSet, Signal
from trainables.back_propagation import BackPropagation
from trainables.backbones.architecture import Architecture, build_network
from trainables.config import TrainConfig
from trainables.hubert_ecg_encoder import HubertEcgSize, hubert_ecg_architecture
from trainables.hubert_ecg_weights import load_encoder
from trainables.losses import Criterion
from trainables.method import Method
from trainables.seeds import Use, derive_seed
from trainables.standardise import OutputUnits, Standardise
from trainables.step import Step
from trainables.token_encoder import (
    conv_features,
    count_tokens,
    encode,
    lay_out,
    mean_of_tokens,
    set_dropout,
    valid_tokens,
)
from trainables.trainer import fit, reports
from trainables.trial import Trial
from trainables.windows import window_timesteps

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "guide": {"epochs": 50, "batch_size": 16, "lr": 1e-5, "freeze_encoder": False},
        "paper": {
            "batch_size": 64, "lr": 1e-5, "beta2": 0.98, "adam_eps": 1e-9, "weight_decay": 0.01,
            "schedule": "linear", "precision": "bf16", "dropout": 0.1, "encoder_dropout": 0.0,
            "freeze_convs": True, "class_weights": "balanced", "crop_timesteps": 500, "window_pooling": "max",
        },
    }
)  # fmt: skip

_LAYER: Final = re.compile(r"hubert\.encoder\.layers\.(\d+)\.")


class HubertEcgConfig(TrainConfig):
    """The parameters of `method: hubert_ecg`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    preset: Literal["none", "guide", "paper"] = Field(
        "none",
        description="Where parameters that are not given come from: none: the defaults; guide: HuBERT-ECG's training "
        "guide; paper: its article's code, for records at 100 Hz.",
    )
    size: HubertEcgSize = Field("tiny", description="Width and depth; tiny is for a CPU, the others are published.")
    weights: str = Field(
        "random",
        min_length=1,
        description="What the encoder starts from: random; bundled (this repository's, of size tiny, for records "
        "at 500 Hz); a pretraining's best/ folder; a file; hubert_ecg_small, _base or _large, the published ones "
        "(CC BY-NC 4.0); or the id of a repository on Hugging Face.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the head.")
    encoder_dropout: float = Field(0.1, ge=0, lt=1, description="Every dropout of the transformer.")
    layerdrop: float = Field(0.0, ge=0, lt=1, description="Chance that a transformer layer is skipped in training.")
    fc_width: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Units of a hidden layer (tanh) in the head; null: none.",
        json_schema_extra={"unit": "units"},
    )
    freeze_encoder: bool = Field(False, description="Train the head alone.")
    freeze_convs: bool = Field(False, description="Do not train the convolutions.")
    frozen_blocks: int = Field(
        0,
        ge=0,
        description="Transformer layers, from below, that are not trained, nor is what lies below them; 0: none.",
        json_schema_extra={"unit": "layers"},
    )
    freeze_steps: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Optimiser steps after which what is frozen is trained too; the schedule goes on as it is; null: "
        "never.",
        json_schema_extra={"unit": "steps"},
    )
    lower_lr_scale: float = Field(
        1.0, gt=0, le=1, description="What lr is multiplied by below the last `upper_blocks` transformer layers."
    )
    upper_blocks: int = Field(
        4, ge=1, description="Transformer layers that have the whole lr.", json_schema_extra={"unit": "layers"}
    )
    head_lr_scale: float = Field(1.0, gt=0, le=1e6, description="What lr is multiplied by in the head.")

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        """Let a preset stand in for what is not given."""
        if not isinstance(values, Mapping):
            return values
        return {**PRESETS.get(values.get("preset", "none"), {}), **values}

    @model_validator(mode="after")
    def _options_work(self) -> HubertEcgConfig:
        frozen = self.freeze_encoder or self.freeze_convs or self.frozen_blocks
        if self.freeze_steps is not None and not frozen:
            raise ValueError(
                f"freeze_steps needs freeze_encoder, freeze_convs or frozen_blocks, but got {self.freeze_steps} alone"
            )
        if self.freeze_encoder and (self.freeze_convs or self.frozen_blocks):
            raise ValueError("freeze_encoder freezes everything: leave out freeze_convs and frozen_blocks")
        if self.upper_blocks != 4 and self.lower_lr_scale == 1:
            raise ValueError(f"upper_blocks needs a lower_lr_scale below 1, but got {self.upper_blocks} alone")
        return self


class HubertEcgClassifier(nn.Module):
    """ecg_BLT -> logits_BK. Padding at a record's end, found in the signal, is attended by no token and not pooled."""

    def __init__(
        self, config: HubertEcgConfig, architecture: Architecture, n_tokens: int, signal: Signal, label_set: LabelSet
    ) -> None:
        super().__init__()
        self.architecture, self.n_tokens, self.layerdrop = architecture, n_tokens, config.layerdrop
        self.normalise = Standardise() if signal.standardise_windows else nn.Identity()
        self.hubert: Any = build_network(architecture, config.encoder_dropout)
        del self.hubert.masked_spec_embed  # nothing is masked; a parameter without a gradient hangs several workers
        set_dropout(self.hubert, config.encoder_dropout)
        self.head = _build_head(config, architecture.hidden_size, label_set.n_outputs)
        self.units = OutputUnits(label_set.n_outputs) if label_set.task == "regression" else nn.Identity()

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        is_traced = bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
        if not is_traced and len(ecg_BLT) == 0:  # a worker without a share of the last batch, whom the others wait for
            return self.forward(ecg_BLT.new_zeros(1, *ecg_BLT.shape[1:]))[:0]
        valid_BE: Tensor | None = valid_tokens(ecg_BLT, self.architecture, self.n_tokens)
        if not is_traced and valid_BE is not None and bool(valid_BE.all()):
            valid_BE = None  # attention without a mask is faster
        wave_BCT = lay_out(self.normalise(ecg_BLT), self.architecture)
        hidden_BEH = encode(self.hubert, conv_features(self.hubert, wave_BCT), None, valid_BE, self.layerdrop)
        logits_BK: Tensor = self.units(self.head(mean_of_tokens(hidden_BEH, valid_BE)))
        return logits_BK


def _build_head(config: HubertEcgConfig, hidden_size: int, n_outputs: int) -> nn.Sequential:
    if config.fc_width is None:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(hidden_size, n_outputs))
    return nn.Sequential(
        nn.Dropout(config.dropout),
        nn.Linear(hidden_size, config.fc_width),
        nn.Tanh(),
        nn.Linear(config.fc_width, n_outputs),
    )


def build_model(config: HubertEcgConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the network with fresh weights, initialised from torch's global generator.

    Raises:
        ValueError: the records have another sampling rate, a window is too short, or there are fewer layers than
            `frozen_blocks`.
    """
    architecture = hubert_ecg_architecture(config.size, signal.fs_hz)
    if config.frozen_blocks > architecture.n_layers:
        raise ValueError(
            f"frozen_blocks must not exceed the {architecture.n_layers} layers of {config.size}, "
            f"but got {config.frozen_blocks}"
        )
    n_tokens = count_tokens(architecture, len(signal.lead_names), window_timesteps(config, signal))
    model = HubertEcgClassifier(config, architecture, n_tokens, signal, label_set)
    if config.freeze_steps is None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not is_frozen(name, config))
    return model


def is_frozen(name: str, config: HubertEcgConfig) -> bool:
    """Tell whether a parameter is frozen, for ever or up to `freeze_steps`."""
    if not name.startswith("hubert."):
        return False
    if config.freeze_encoder or (config.freeze_convs and name.startswith("hubert.feature_extractor.")):
        return True
    layer = _LAYER.match(name)
    return config.frozen_blocks > (int(layer[1]) if layer else 0)


class FineTuning(Step):
    """Back-propagation that leaves out what is frozen at first, and gives each part of the network its own rate.

    Optimiser and schedule know every parameter from the first step on: when the freeze ends, neither starts anew.
    """

    def __init__(self, plain: Step, model: nn.Module, config: HubertEcgConfig, n_layers: int) -> None:
        self._plain, self._config, self._n_layers = plain, config, n_layers
        self._frozen: Sequence[nn.Parameter] = []
        if config.freeze_steps is not None:
            self._frozen = [each for name, each in model.named_parameters() if is_frozen(name, config)]

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        sums = self._plain.gradient(ecg_BLT, targets_BJ, number)
        if number < (self._config.freeze_steps or 0):
            for parameter in self._frozen:
                parameter.grad = None  # the optimiser passes over it: no step, no decay, no moments
        return sums

    def lr_scale(self, name: str) -> float:
        if name.startswith("head."):
            return self._config.head_lr_scale
        layer = _LAYER.match(name)
        is_upper = layer is not None and int(layer[1]) >= self._n_layers - self._config.upper_blocks
        return 1.0 if is_upper else self._config.lower_lr_scale


def train(config: HubertEcgConfig, dataset: Dataset, trial: Trial) -> None:
    """Fine-tune; see `trainables.trainer.fit`.

    Raises:
        ValueError: the weights are not there, or are of another size or rate.
    """
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    assert isinstance(model, HubertEcgClassifier)
    load_encoder(model.hubert, config.weights, config.size)

    def build_step(placed: nn.Module, criterion: Criterion, n_steps: int) -> Step:
        plain = BackPropagation(placed, criterion, config, trial)
        return FineTuning(plain, placed, config, model.architecture.n_layers)

    fit(model, config, dataset, trial, build_step)


HUBERT_ECG = Method("hubert_ecg", HubertEcgConfig, build_model, train, reports)
