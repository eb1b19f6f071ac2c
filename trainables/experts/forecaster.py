"""The contract of the networks that learn to forecast a lead, and whose forecasts an ensemble uses.

S: series (one lead of one window), T: timesteps, F: forecast timesteps, D: width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Literal, NamedTuple

from torch import Tensor, nn

ForecasterKind = Literal["dlinear", "timesnet"]

CONTEXT: Final = 500  # timesteps that a forecast is made from
FS_HZ: Final = 50.0  # so that they are 10 s


class Forecast(NamedTuple):
    """What a network makes of a series."""

    forecast_SF: Tensor
    embedding_SD: Tensor


class Forecaster(nn.Module, ABC):
    """series_ST, CONTEXT timesteps of a lead, -> the `horizon` timesteps after them, and an embedding.

    Attributes:
        width: of the embedding.
    """

    width: int

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon

    @abstractmethod
    def forward(self, series_ST: Tensor) -> Forecast: ...

    def fit(self, series_ST: Tensor) -> None:
        """Take what the network has to know of the training series before its first step."""
