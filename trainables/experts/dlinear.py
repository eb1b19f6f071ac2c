"""DLinear (Zeng et al. 2023, arXiv:2205.13504): one linear layer on a lead's moving average, one on what is left.

S: series, T: timesteps, F: forecast timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.experts.forecaster import CONTEXT, Forecast, Forecaster
from trainables.experts.moving_average import moving_average

KERNEL = 1_001  # EnECG's: wider than the series, whose ends count all the more


class DLinear(Forecaster):
    """All leads share the weights. Its embedding is the two parts of the forecast, trend and season."""

    def __init__(self, horizon: int) -> None:
        super().__init__(horizon)
        self.width = 2 * horizon
        self.trend = nn.Linear(CONTEXT, horizon)
        self.season = nn.Linear(CONTEXT, horizon)

    def forward(self, series_ST: Tensor) -> Forecast:
        average_ST = moving_average(series_ST, KERNEL)
        trend_SF, season_SF = self.trend(average_ST), self.season(series_ST - average_ST)
        return Forecast(trend_SF + season_SF, torch.cat([trend_SF, season_SF], dim=1))
