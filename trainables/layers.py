"""Layers that several networks share. B: records, C: channels, T: timesteps."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Norm = Literal["batch", "layer"]


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv1d:
    """Return a convolution without bias (a norm follows); an odd kernel leaves ceil(T / stride) timesteps.

    An even kernel loses one timestep at stride 1. Kaiming-initialised from torch's global generator, which the caller
    seeds.
    """
    layer = nn.Conv1d(in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def build_norm(norm: Norm, n_channels: int) -> nn.Module:
    """Return batch norm, or layer norm over channels and time, which knows no batch."""
    return nn.BatchNorm1d(n_channels) if norm == "batch" else nn.GroupNorm(1, n_channels)


def conv_norm_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, batch norm, ReLU."""
    return nn.Sequential(
        conv(in_channels, out_channels, kernel_size, stride), nn.BatchNorm1d(out_channels), nn.ReLU(inplace=True)
    )


class MaxMeanPool(nn.Module):
    """Pool over time: x_BCT -> pooled_B(2C), the maxima and then the means."""

    def forward(self, x_BCT: Tensor) -> Tensor:
        return torch.cat([x_BCT.amax(dim=2), x_BCT.mean(dim=2)], dim=1)


def pooled_head(n_channels: int, n_hidden: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Return fastai's head: max and mean over time, and `dense_head`; x_BCT -> logits_BK."""
    return nn.Sequential(MaxMeanPool(), *dense_head(2 * n_channels, n_hidden, n_outputs, dropout))


def dense_head(n_features: int, n_hidden: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Return norm, dropout/2, linear, ReLU, norm, dropout, linear: features_BC -> logits_BK."""
    return nn.Sequential(
        nn.BatchNorm1d(n_features),
        nn.Dropout(dropout / 2),
        nn.Linear(n_features, n_hidden),
        nn.ReLU(inplace=True),
        nn.BatchNorm1d(n_hidden),
        nn.Dropout(dropout),
        nn.Linear(n_hidden, n_outputs),
    )
