"""What every expert can be told."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator


class ExpertConfig(BaseModel):
    """The parameters of an expert; each kind adds its own.

    Attributes:
        available: the features that the kind can give.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    available: ClassVar[tuple[str, ...]]

    weights: str = Field(
        "random",
        min_length=1,
        description="What the expert is: a Hugging Face id (OWNER/NAME or OWNER/NAME/FILE), a folder, a file "
        "(.safetensors, or one that holds data only), public (the published one, where there is one), bundled (this "
        "repository's, where there is one) or random.",
    )
    weights_seed: int = Field(0, ge=0, description="random: which random weights, the same in all trials.")
    features: tuple[str, ...] = Field(
        strict=False, min_length=1, description="What it gives, of what its kind can; several lie one after another."
    )

    @field_validator("features")
    @classmethod
    def _are_known(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(features)) < len(features) or not set(features) <= set(cls.available):
            raise ValueError(
                f"features must be some of {', '.join(cls.available)}, each once, but got {', '.join(features)}"
            )
        return features
