"""Blocks that several candidates share. B: records, C: channels, T: timesteps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Weigh channels by a gate that sees their means (Hu et al. 2018, arXiv:1709.01507): x_BCT -> x_BCT."""

    def __init__(self, n_channels: int, ratio: int, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        hidden = max(1, n_channels // ratio)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(n_channels, hidden, 1),
            activation(),
            nn.Conv1d(hidden, n_channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        gate_BC1: Tensor = self.gate(x_BCT)
        return x_BCT * gate_BC1


class Residual(nn.Module):
    """Two convolutions of 3 beside a shortcut, which is projected where the shape changes: x_BCT -> x_BCT."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(in_channels, out_channels, 3, stride), nn.ReLU(), *conv_bn(out_channels, out_channels, 3)
        )
        same = in_channels == out_channels and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1, stride))

    def forward(self, x_BCT: Tensor) -> Tensor:
        return torch.relu(self.body(x_BCT) + self.shortcut(x_BCT))


def conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> tuple[nn.Conv1d, nn.BatchNorm1d]:
    """Return a convolution that keeps ceil(T / stride) timesteps, and batch norm; an export folds the two into one."""
    layer = nn.Conv1d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return layer, nn.BatchNorm1d(out_channels)


def pool() -> tuple[nn.Module, nn.Module]:
    """Return the mean over time: x_BCT -> features_BC."""
    return nn.AdaptiveAvgPool1d(1), nn.Flatten()
