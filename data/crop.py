"""Bringing records to one length."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from data.dataset import Signal
from data.operation import Array, Operation


class CropOrPad(Operation):
    """Bring records to one length: crop longer ones, pad shorter ones with zeros at their end.

    Padding is no signal: later steps leave it out and zero, and `length_N` says where it begins.
    """

    n_timesteps: int = Field(ge=1, description="length afterwards", json_schema_extra={"unit": "timesteps"})
    keep: Literal["start", "centre"] = Field("start", description="which part of a longer record is kept")

    def output_signal(self, signal: Signal) -> Signal:
        return replace(signal, n_timesteps=self.n_timesteps)

    def output_length(self, n_timesteps: int, signal: Signal) -> int:
        return min(n_timesteps, self.n_timesteps)

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        """Crop; the padding is added after the last step."""
        surplus = max(0, ecg_NLT.shape[-1] - self.n_timesteps)
        start = surplus // 2 if self.keep == "centre" else 0
        return ecg_NLT[..., start : start + self.n_timesteps]
