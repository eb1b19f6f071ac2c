"""What every pretraining can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, model_validator

from trainables.config import LoopConfig


class PretrainConfig(LoopConfig):
    """The parameters of the pretraining loop; a method's own config adds its criterion's.

    Records are taken whole: bring them to the length of a segment with `crop_or_pad` in `data.preprocess`.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    weights: str = Field(
        "random",
        min_length=1,
        description="What the encoder starts from: random, a sweep's best/ folder, or a file; heads are always fresh.",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Every dropout of the network.")
    dynamic_regularisation: bool = Field(
        False,
        description="While val/loss stands still: weight decay x 5 and every dropout + 0.05, each half of `patience`; "
        "on improvement back again, not below what is given.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, values: Any) -> Any:
        """Let a preset stand in for what is not given."""
        if not isinstance(values, Mapping):
            return values
        return {**cls.presets.get(values.get("preset", "none"), {}), **values}


class TokenPretrainConfig(PretrainConfig):
    """The parameters of a pretraining that hides tokens from a transformer."""

    dropout: float = Field(0.1, ge=0, lt=1, description="Every dropout of the transformer.")
    layerdrop: float = Field(0.0, ge=0, lt=1, description="Chance that a transformer layer is skipped in training.")
    mask_prob: float = Field(0.33, gt=0, lt=1, description="Share of the tokens that are masked.")
    mask_span: int = Field(
        1,
        ge=1,
        description="Length of a masked span; spans may overlap, and then fewer tokens are masked.",
        json_schema_extra={"unit": "tokens"},
    )
    min_masks: int = Field(2, ge=1, description="Masked spans of a record at least.")
