"""The fully convolutional network of Wang et al. 2017 (arXiv:1611.06455), with the PTB-XL benchmark's head."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from trainables.layers import conv_norm_relu, pooled_head

WIDTHS = (128, 256, 128)
KERNEL_SIZES = (8, 5, 3)
HEAD_WIDTH = 128


def build_fcn_wang(n_leads: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Build fcn_wang, three convolutions and a pool: ecg_BLT -> logits_BK. Needs at least 2 timesteps."""
    channels = pairwise((n_leads, *WIDTHS))
    layers = [conv_norm_relu(*pair, kernel_size) for pair, kernel_size in zip(channels, KERNEL_SIZES, strict=True)]
    return nn.Sequential(*layers, pooled_head(WIDTHS[-1], HEAD_WIDTH, n_outputs, dropout))
