"""The residual network of Wang et al. 2017 (arXiv:1611.06455), as the PTB-XL benchmark sizes it.

Three basic blocks of 128 channels behind a stem that keeps time; the second and the third block halve it. B: records,
C: channels, T: timesteps.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainables.layers import conv, conv_norm_relu, pooled_head

WIDTH = 128
STEM_KERNEL_SIZE = 7
KERNEL_SIZES = (5, 3)
STRIDES = (1, 2, 2)
HEAD_WIDTH = 128


class BasicBlock(nn.Module):
    """x_BCT -> x_BC(T / stride): two convolutions, with a shortcut around them."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        first, second = KERNEL_SIZES
        self.body = nn.Sequential(
            conv_norm_relu(WIDTH, WIDTH, first, stride), conv(WIDTH, WIDTH, second), nn.BatchNorm1d(WIDTH)
        )
        convolved = [conv(WIDTH, WIDTH, 1, stride), nn.BatchNorm1d(WIDTH)]
        self.shortcut = nn.Sequential(*convolved if stride > 1 else [])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCT: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x_BCT) + self.shortcut(x_BCT))
        return out


def build_resnet1d_wang(n_leads: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Build resnet1d_wang: ecg_BLT -> logits_BK."""
    return nn.Sequential(
        conv_norm_relu(n_leads, WIDTH, STEM_KERNEL_SIZE),
        *[BasicBlock(stride) for stride in STRIDES],
        pooled_head(WIDTH, HEAD_WIDTH, n_outputs, dropout),
    )
