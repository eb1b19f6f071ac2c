"""Supervised training, from scratch or from given weights: the baseline that every other method is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from data.dataset import Dataset, LabelSet, Signal
from trainables.cnn import build_cnn
from trainables.config import Governed, TrainConfig
from trainables.fcn_wang import build_fcn_wang
from trainables.inception1d import build_inception1d
from trainables.initial_weights import start_from
from trainables.layers import Norm
from trainables.lstm import build_lstm_bidir
from trainables.method import Method
from trainables.resnet1d_wang import build_resnet1d_wang
from trainables.seeds import Use, derive_seed
from trainables.standardise import with_edges
from trainables.trainer import fit, reports
from trainables.trial import Trial
from trainables.windows import window_timesteps
from trainables.xresnet1d import build_xresnet1d

Model = Literal[
    "xresnet1d18", "xresnet1d50", "xresnet1d101", "inception1d", "resnet1d_wang", "fcn_wang", "lstm_bidir", "cnn"
]
Width = Annotated[int, Field(ge=1, le=4096)]
_FIXED: Mapping[Model, Callable[[int, int, float], nn.Sequential]] = {  # networks whose structure is not searched
    "xresnet1d18": partial(build_xresnet1d, 18),
    "xresnet1d50": partial(build_xresnet1d, 50),
    "xresnet1d101": partial(build_xresnet1d, 101),
    "inception1d": build_inception1d,
    "resnet1d_wang": build_resnet1d_wang,
    "fcn_wang": build_fcn_wang,
    "lstm_bidir": build_lstm_bidir,
}
_CNN = ("model", frozenset({"cnn"}))


class SupervisedConfig(TrainConfig):
    """The parameters of `method: supervised`."""

    governed: ClassVar[Governed] = {
        **TrainConfig.governed,
        "channels": _CNN,
        "depth": _CNN,
        "kernel_size": _CNN,
        "norm": _CNN,
    }

    model: Model = Field("xresnet1d18", description="Network.")
    weights: str | None = Field(
        None,
        min_length=1,
        description="Safetensors of a trained model of ours to start from, such as best/model.safetensors; its last "
        "layer is left out where the outputs differ. null: fresh weights.",
    )
    dropout: float = Field(0.25, ge=0, lt=1, description="Dropout before the last layer (half of it one layer before).")
    channels: Width | Annotated[tuple[Width, ...], Field(strict=False, min_length=1)] = Field(
        32,
        description="cnn: filters of every layer, or a list with each layer's.",
        json_schema_extra={"unit": "filters"},
    )
    depth: int = Field(
        4, ge=1, le=10, description="cnn: layers; each halves time.", json_schema_extra={"unit": "layers"}
    )
    kernel_size: int = Field(7, ge=1, le=63, description="cnn: kernel, odd.", json_schema_extra={"unit": "timesteps"})
    norm: Norm = Field("batch", description="cnn: batch norm, or layer norm over a record's channels and time.")

    @model_validator(mode="after")
    def _cnn_consistent(self) -> SupervisedConfig:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that a layer keeps time centred, but got {self.kernel_size}")
        if isinstance(self.channels, tuple) and len(self.channels) != self.depth:
            raise ValueError(
                "channels as a list needs one width a layer, "
                f"but got {len(self.channels)} widths and depth={self.depth}"
            )
        return self


def build_model(config: SupervisedConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the network, ecg_BLT -> logits_BK, initialised from torch's global generator.

    Raises:
        ValueError: the cnn halves time more often than a window allows.
    """
    n_leads, n_outputs = len(signal.lead_names), label_set.n_outputs
    if config.model == "cnn":
        _check_depth(config, signal)
        widths = config.channels if isinstance(config.channels, tuple) else (config.channels,) * config.depth
        network = build_cnn(widths, config.kernel_size, config.norm, n_leads, n_outputs, config.dropout)
    else:
        network = _FIXED[config.model](n_leads, n_outputs, config.dropout)
    return with_edges(network, signal, label_set)


def _check_depth(config: SupervisedConfig, signal: Signal) -> None:
    n_timesteps = window_timesteps(config, signal)
    if n_timesteps < 2**config.depth:
        raise ValueError(
            f"depth={config.depth} halves time to nothing: it needs {2**config.depth} timesteps, "
            f"but a window has {n_timesteps}"
        )


def train(config: SupervisedConfig, dataset: Dataset, trial: Trial) -> None:
    """Train a network from fresh weights, or from those of `config.weights`; see `trainables.trainer.fit`.

    Raises:
        ValueError: the weights are not of this network.
    """
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    if config.weights is not None:
        start_from(model, Path(config.weights))
    fit(model, config, dataset, trial)


SUPERVISED = Method("supervised", SupervisedConfig, build_model, train, reports)
