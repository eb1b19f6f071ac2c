"""xresnet in one dimension, the strongest family of the PTB-XL benchmark (Strodthoff et al. 2020, arXiv:2004.13701).

A residual network with the "bag of tricks" of He et al. 2019 (arXiv:1812.01187): three small convolutions as
stem, stride in the middle convolution, average pooling on the shortcut, and the last norm of each block starting at 0,
so that a block starts as its shortcut. Every stage is equally wide. B: records, C: channels, T: timesteps.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.layers import conv, conv_norm_relu, pooled_head

STEM = (32, 32, 64)
WIDTH = 64
KERNEL_SIZE = 5
HEAD_WIDTH = 128
EXPANSION = {18: 1, 50: 4, 101: 4}
STAGES = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class ResidualBlock(nn.Module):
    """x_BCT -> x_B(width * expansion)(T / stride); expansion 1 is a basic block, more a bottleneck."""

    def __init__(self, in_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        out_channels = WIDTH * expansion
        if expansion == 1:
            layers = [conv_norm_relu(in_channels, WIDTH, KERNEL_SIZE, stride), conv(WIDTH, out_channels, KERNEL_SIZE)]
        else:
            layers = [
                conv_norm_relu(in_channels, WIDTH, 1),
                conv_norm_relu(WIDTH, WIDTH, KERNEL_SIZE, stride),
                conv(WIDTH, out_channels, 1),
            ]
        last_norm = nn.BatchNorm1d(out_channels)
        nn.init.zeros_(last_norm.weight)
        self.body = nn.Sequential(*layers, last_norm)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCT: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x_BCT) + self.shortcut(x_BCT))
        return out


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    if stride > 1:
        layers.append(nn.AvgPool1d(stride, ceil_mode=True, count_include_pad=False))
    if in_channels != out_channels:
        layers += [conv(in_channels, out_channels, 1), nn.BatchNorm1d(out_channels)]
    return nn.Sequential(*layers)


def build_xresnet1d(layers: int, n_leads: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Build xresnet1d18, 50 or 101: ecg_BLT -> logits_BK."""
    widths = (n_leads, *STEM)
    stem = [conv_norm_relu(widths[i], widths[i + 1], KERNEL_SIZE, stride=2 if i == 0 else 1) for i in range(3)]
    blocks: list[nn.Module] = []
    channels = STEM[-1]
    for stage, n_blocks in enumerate(STAGES[layers]):
        for block in range(n_blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            blocks.append(ResidualBlock(channels, EXPANSION[layers], stride))
            channels = WIDTH * EXPANSION[layers]
    return nn.Sequential(
        *stem, nn.MaxPool1d(3, 2, padding=1), *blocks, pooled_head(channels, HEAD_WIDTH, n_outputs, dropout)
    )
