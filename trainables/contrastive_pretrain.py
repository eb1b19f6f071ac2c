"""Pretraining by contrast: wav2vec2's criterion, on wav2vec2 or, with CMSC and lead masking, on ECG-FM."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.backbones.architecture import Size, architecture_of
from trainables.backbones.weights import load_network
from trainables.method import Method
from trainables.pretraining.contrastive import PART_NAMES, Contrastive, ContrastiveBatches, ContrastiveConfig
from trainables.pretraining.trainer import Part, pretrain, report_names
from trainables.seeds import Use, derive_seed
from trainables.token_encoder import count_tokens
from trainables.trial import Trial
from trainables.weight_files import locate

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ecg_fm": {
            "backbone": "ecg_fm", "size": "base", "mask_prob": 0.65, "mask_span": 10, "min_masks": 2,
            "cmsc_weight": 1.0, "lead_mask_prob": 0.5, "optimizer": "adam", "lr": 5e-5, "beta2": 0.98,
            "adam_eps": 1e-6, "weight_decay": 0.01, "schedule": "constant", "batch_size": 512,
        },
    }
)  # fmt: skip


class ContrastivePretrainConfig(ContrastiveConfig):
    """The parameters of `method: contrastive_pretrain`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    preset: Literal["none", "ecg_fm"] = Field(
        "none",
        description="Where parameters that are not given come from: none: the defaults; ecg_fm: W2V + CMSC + RLM of "
        "ECG-FM, whose batch of 512 records is 1,024 segments.",
    )
    backbone: Literal["wav2vec2", "ecg_fm"] = Field(
        "wav2vec2", description="wav2vec2: all leads one after another; ecg_fm: twelve leads side by side."
    )
    size: Size = Field("tiny", description="Width and depth.")
    mask_prob: float = Field(0.65, gt=0, lt=1, description="Masked spans times their length over the tokens.")
    mask_span: int = Field(
        10,
        ge=1,
        description="Length of a masked span; spans may overlap, and then fewer tokens are masked.",
        json_schema_extra={"unit": "tokens"},
    )


def build_model(config: ContrastivePretrainConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the encoder and its quantiser, initialised from torch's global generator.

    Raises:
        ValueError: the network reads other leads, or the records (with CMSC: their halves) are too short.
    """
    architecture = architecture_of(config.backbone, config.size)
    n_timesteps = signal.n_timesteps // 2 if config.cmsc_weight else signal.n_timesteps
    n_tokens = count_tokens(architecture, len(signal.lead_names), n_timesteps)
    if config.mask_span > n_tokens // 2:
        raise ValueError(
            f"mask_span must not exceed half of a segment's {n_tokens} tokens, but got {config.mask_span}; "
            "take shorter spans or longer records"
        )
    return Contrastive(architecture, n_tokens, config)


def train(config: ContrastivePretrainConfig, dataset: Dataset, trial: Trial) -> None:
    """Pretrain; see `trainables.pretraining.trainer.pretrain`."""
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    assert isinstance(model, Contrastive)
    if config.weights != "random":
        load_network(model.network, locate(config.weights), model.architecture)
    pretrain(model, ContrastiveBatches(config, model.architecture, model.n_tokens), config, dataset, trial)


def reports(task: Task) -> frozenset[str]:
    """Return the names of what every report has."""
    return report_names([Part(name, 0.0) for name in PART_NAMES])


CONTRASTIVE_PRETRAIN = Method(
    "contrastive_pretrain", ContrastivePretrainConfig, build_model, train, reports, tasks=frozenset({"unlabelled"})
)
