"""HuBERT-ECG's pretraining: masked prediction of the clusters that the step `hubert_ecg_clusters` made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from data.codebook import Codebook, read_labels
from data.dataset import Dataset, LabelSet, Signal, Split, Task
from trainables.hubert_ecg_encoder import SHAPES, HubertEcgSize, hubert_ecg_architecture
from trainables.hubert_ecg_weights import load_encoder
from trainables.method import Method
from trainables.pretraining.config import TokenPretrainConfig
from trainables.pretraining.masked_prediction import PART_NAMES, LabelledTokens, MaskedPrediction, chance
from trainables.pretraining.trainer import Part, Role, pretrain, report_names
from trainables.seeds import Use, derive_seed
from trainables.token_encoder import count_tokens
from trainables.trial import Trial

Clusters = Annotated[int, Field(ge=2, le=32_767)]

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "guide": {
            "epochs": 100, "batch_size": 32, "lr": 1e-4, "mask_prob": 0.15, "num_clusters": 100,
        },
        "paper": {
            "batch_size": 448, "lr": 5e-5, "beta2": 0.98, "adam_eps": 1e-9, "weight_decay": 0.01,
            "schedule": "linear", "precision": "bf16", "mask_prob": 0.33, "mask_span": 1, "min_masks": 2,
            "masked_weight": 1.0, "unmasked_weight": 0.0, "num_clusters": 100,
            "early_stopping": "plateau", "patience": 10, "min_delta": 1e-3, "dropout": 0.1, "layerdrop": 0.1,
        },
    }
)  # fmt: skip


class HubertEcgPretrainConfig(TokenPretrainConfig):
    """The parameters of `method: hubert_ecg_pretrain`."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    preset: Literal["none", "guide", "paper"] = Field(
        "none",
        description="Where parameters that are not given come from: none: the defaults; guide: HuBERT-ECG's training "
        "guide; paper: its article's code (layerdrop 0.1 is for small and base, large has 0).",
    )
    size: HubertEcgSize = Field("tiny", description="Width and depth; tiny is for a CPU, the others are published.")
    codebooks: str | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = Field(
        None,
        description="Folder of a codebook and its labels, as the step hubert_ecg_clusters leaves it; of several, "
        "all are predicted at once; required.",
    )
    num_clusters: Clusters | None = Field(
        None,
        description="Clusters that every codebook must have; null: as many as it has.",
        json_schema_extra={"unit": "clusters"},
    )
    masked_weight: float = Field(1.0, ge=0, description="Weight of the masked tokens' cross-entropy in the loss.")
    unmasked_weight: float = Field(0.0, ge=0, description="Weight of the unmasked tokens' cross-entropy.")

    @model_validator(mode="after")
    def _learns(self) -> HubertEcgPretrainConfig:
        if self.masked_weight == 0 and self.unmasked_weight == 0:
            raise ValueError("masked_weight and unmasked_weight must not both be 0, or nothing is learned")
        return self

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of the codebooks.

        Raises:
            ValueError: none is given.
        """
        if self.codebooks is None:
            raise ValueError(
                "codebooks is required: a folder that searchspaces/hubert_ecg_clusters.yaml leaves, or in a chain "
                "codebooks: {from: clusters.codebook}"
            )
        names = (self.codebooks,) if isinstance(self.codebooks, str) else self.codebooks
        return tuple(Path(name) for name in names)


def build_model(config: HubertEcgPretrainConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the encoder with a head a codebook, initialised from torch's global generator.

    Raises:
        ValueError: the records have another sampling rate, or are too short.
    """
    architecture = hubert_ecg_architecture(config.size, signal.fs_hz)
    return MaskedPrediction(
        architecture,
        count_tokens(architecture, len(signal.lead_names), signal.n_timesteps),
        SHAPES[config.size].head_size,
        [_count_clusters(config, folder) for folder in config.folders],
        config,
        (config.masked_weight, config.unmasked_weight),
    )


def train(config: HubertEcgPretrainConfig, dataset: Dataset, trial: Trial) -> None:
    """Pretrain on the labels of the codebooks; see `trainables.pretraining.trainer.pretrain`.

    Raises:
        ValueError: the codebooks are not there, are of other records, or of records of another shape.
    """
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    assert isinstance(model, MaskedPrediction)
    load_encoder(model.network, config.weights, config.size)
    labels: dict[Role, NDArray[np.int16]] = {
        "train": _labels(config, dataset.train, model.n_tokens),
        "val": _labels(config, dataset.val, model.n_tokens),
    }
    prepare = LabelledTokens(config, labels, config.unmasked_weight)
    pretrain(model, prepare, config, dataset, trial, {"val/chance": chance(labels["val"])})


def _count_clusters(config: HubertEcgPretrainConfig, folder: Path) -> int:
    found = Codebook.load(folder).num_clusters
    if config.num_clusters not in (None, found):
        raise ValueError(f"{folder} has {found} clusters, but num_clusters is {config.num_clusters}; leave it out")
    return found


def _labels(config: HubertEcgPretrainConfig, split: Split, n_tokens: int) -> NDArray[np.int16]:
    """Return labels_NEJ of a split's records."""
    labels = [read_labels(folder, split.record_ids) for folder in config.folders]
    for folder, labels_NE in zip(config.folders, labels, strict=True):
        if labels_NE.shape[1] != n_tokens:
            raise ValueError(
                f"{folder} has {labels_NE.shape[1]} tokens a record, but these records have {n_tokens}; "
                "give both steps the same data.preprocess"
            )
    return np.stack(labels, axis=2)


def reports(task: Task) -> frozenset[str]:
    """Return the names of what every report has."""
    return report_names([Part(name, 0.0) for name in PART_NAMES], ["val/chance"])


HUBERT_ECG_PRETRAIN = Method(
    "hubert_ecg_pretrain", HubertEcgPretrainConfig, build_model, train, reports, tasks=frozenset({"unlabelled"})
)
