"""InceptionTime in one dimension (Ismail Fawaz et al. 2020, arXiv:1909.04939), as the PTB-XL benchmark sizes it.

Depth 6; each module looks through kernels of 39, 19 and 9 timesteps at once; a residual connection over every
three modules. B: records, C: channels, T: timesteps; no module changes T.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.layers import conv, pooled_head

DEPTH = 6
FILTERS = 32
KERNEL_SIZES = (39, 19, 9)
BOTTLENECK = 32
RESIDUAL_EVERY = 3
HEAD_WIDTH = 128
WIDTH = FILTERS * (len(KERNEL_SIZES) + 1)


class InceptionModule(nn.Module):
    """x_BCT -> x_B(128)T: three convolutions behind a bottleneck and one behind a max-pool, side by side."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        has_bottleneck = in_channels > 1  # one lead is as narrow as can be
        self.bottleneck = conv(in_channels, BOTTLENECK, 1) if has_bottleneck else nn.Identity()
        width = BOTTLENECK if has_bottleneck else in_channels
        self.branches = nn.ModuleList([conv(width, FILTERS, kernel_size) for kernel_size in KERNEL_SIZES])
        self.pooled = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), conv(in_channels, FILTERS, 1))
        self.norm_relu = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True))

    def forward(self, x_BCT: Tensor) -> Tensor:
        narrow_BCT = self.bottleneck(x_BCT)
        branches = [branch(narrow_BCT) for branch in self.branches]
        out: Tensor = self.norm_relu(torch.cat([*branches, self.pooled(x_BCT)], dim=1))
        return out


class ResidualGroup(nn.Module):
    """Three modules, with a shortcut around them."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        widths = [in_channels] + [WIDTH] * (RESIDUAL_EVERY - 1)
        self.modules_in_row = nn.Sequential(*[InceptionModule(width) for width in widths])
        self.shortcut = nn.Sequential(conv(in_channels, WIDTH, 1), nn.BatchNorm1d(WIDTH))

    def forward(self, x_BCT: Tensor) -> Tensor:
        return torch.relu(self.modules_in_row(x_BCT) + self.shortcut(x_BCT))


def build_inception1d(n_leads: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Build inception1d: ecg_BLT -> logits_BK."""
    widths = [n_leads] + [WIDTH] * (DEPTH // RESIDUAL_EVERY - 1)
    groups = [ResidualGroup(width) for width in widths]
    return nn.Sequential(*groups, pooled_head(WIDTH, HEAD_WIDTH, n_outputs, dropout))
