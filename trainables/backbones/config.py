"""What every method on a pretrained backbone can be told about it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from trainables.backbones.architecture import Family, Size
from trainables.config import Governed, TrainConfig

LeadPlacement = Literal["auto", "concatenate", "one", "mean", "each", "slots"]
LeadPooling = Literal["mean", "max"]
TokenPooling = Literal["mean", "attention", "layer_sum"]


class BackboneConfig(TrainConfig):
    """The parameters of a backbone: which, with what weights, and how a signal meets it."""

    governed: ClassVar[Governed] = {
        **TrainConfig.governed,
        "lead": ("lead_placement", frozenset({"one", "mean", "slots", "auto"})),
        "lead_pooling": ("lead_placement", frozenset({"each"})),
    }

    backbone: Family = Field("wav2vec2", description="Pretrained network.")
    size: Size = Field("tiny", description="Width and depth; tokens depend on `backbone` alone.")
    weights: str = Field(
        "random",
        min_length=1,
        description="What the backbone starts from: a Hugging Face id, a folder, a file (.safetensors, or a .pt that "
        "holds data only), bundled (this repository's, where there are any) or random.",
    )
    resample_factor: float = Field(
        1.0,
        ge=1,
        le=64,
        description="Timesteps are interpolated linearly to this multiple before the backbone; fewer: `resample` in "
        "data.preprocess.",
    )
    lead_placement: LeadPlacement = Field(
        "auto",
        description="concatenate: leads one after another as one sequence (not ecg_fm); one: `lead` alone; mean: of "
        "all leads; each: every lead encoded alone, then `lead_pooling`; slots: each lead in its own of the 12 inputs "
        "of ecg_fm, zeros elsewhere. auto: slots for ecg_fm, else concatenate.",
    )
    lead: str = Field(
        "II",
        description="one: the lead that is read. ecg_fm: the slot that takes a mean, or a single lead whose name is "
        "none of the twelve.",
    )
    lead_pooling: LeadPooling = Field("mean", description="How a record follows from its leads' features.")
    pooling: TokenPooling = Field(
        "mean",
        description="How features follow from tokens. attention: learned weights over the last layer's tokens; "
        "layer_sum: learned weights over the layers' means.",
    )
    encoder_dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout inside the transformer; a frozen beginning of the network has none."
    )
    mask_prob: float = Field(0.0, ge=0, le=0.9, description="SpecAugment: share of tokens masked in training; 0: off.")
    mask_span: int | None = Field(
        None,
        ge=1,
        description="SpecAugment: length of a masked span; null: a tenth of the tokens, at most 10.",
        json_schema_extra={"unit": "tokens"},
    )
    feature_cache: Literal["auto", "off"] = Field(
        "auto",
        description="auto: what lies below the first trained layer is computed once for all trials, kept beside the "
        "store, unless records are augmented or cropped.",
    )
