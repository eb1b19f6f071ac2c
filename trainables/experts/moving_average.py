"""The moving average of DLinear, Autoformer and TEMPO: as long as the series, whose ends are repeated.

S: series, T: timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def moving_average(series_ST: Tensor, kernel: int) -> Tensor:
    """Return the mean over `kernel` timesteps, an odd number, around each, the first and last standing beyond."""
    half = kernel // 2
    padded_ST = torch.cat([series_ST[:, :1].expand(-1, half), series_ST, series_ST[:, -1:].expand(-1, half)], dim=1)
    return nn.functional.avg_pool1d(padded_ST[:, None], kernel, stride=1)[:, 0]
