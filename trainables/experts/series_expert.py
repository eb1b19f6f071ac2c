"""Experts that read one lead at a time: what they give of several leads lies side by side, lead by lead.

R: windows, L: leads, S: series (one lead of one window), T: timesteps, D: features of a series.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from data.dataset import Signal
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import ExpertInput
from trainables.experts.window_expert import WindowExpert


class SeriesConfig(ExpertConfig):
    """The parameters of an expert that reads one lead at a time."""

    leads: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        ("II",), description="Which leads it reads, the same ones of every record; a record's only lead stands for one."
    )


class SeriesExpert(WindowExpert):
    """As `WindowExpert`, by way of `encode_series`.

    Args:
        widths: of one lead.
    """

    def __init__(self, config: SeriesConfig, signal: Signal, widths: Mapping[str, int], wanted: ExpertInput) -> None:
        n_leads = len(config.leads)
        super().__init__(config, signal, {name: n_leads * width for name, width in widths.items()}, wanted)

    @abstractmethod
    def encode_series(self, series_ST: Tensor) -> Mapping[str, Tensor]:
        """Return each of `config.features`, (S, width); others may be among them."""

    def encode(self, ecg_RLT: Tensor, is_signal_RT: Tensor) -> Mapping[str, Tensor]:
        n_leads = ecg_RLT.shape[1]
        encoded = self.encode_series(ecg_RLT.flatten(0, 1))
        return {name: each_SD.reshape(-1, n_leads * each_SD.shape[1]) for name, each_SD in encoded.items()}
