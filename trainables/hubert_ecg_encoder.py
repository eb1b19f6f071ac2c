"""HuBERT-ECG's sizes (github.com/Edoar-do/HuBERT-ECG): HuBERT over all leads in one sequence, 93 tokens for 5 s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from data.tokens import conv_stack
from trainables.backbones.architecture import Architecture

HubertEcgSize = Literal["tiny", "small", "base", "large"]


@dataclass(frozen=True)
class Shape:
    """What a size fixes; `head_size` is the width that tokens are compared with clusters in."""

    hidden_size: int
    n_layers: int
    n_heads: int
    ffn_size: int
    head_size: int
    conv_channels: int = 512
    pos_kernel: int = 128


SHAPES: Mapping[HubertEcgSize, Shape] = MappingProxyType(
    {
        "tiny": Shape(96, 3, 4, 384, 64, conv_channels=32, pos_kernel=32),  # ours, for a CPU
        "small": Shape(512, 8, 8, 2048, 256),
        "base": Shape(768, 12, 12, 3072, 256),
        "large": Shape(960, 16, 12, 3840, 512),
    }
)


def hubert_ecg_architecture(size: HubertEcgSize, fs_hz: float) -> Architecture:
    """Return the shape of the network for records of a sampling rate.

    Raises:
        ValueError: there are no convolutions for the rate.
    """
    shape, stack = SHAPES[size], conv_stack(fs_hz)
    return Architecture(
        layout="hubert",
        n_inputs=1,
        conv_channels=shape.conv_channels,
        conv_kernels=stack.kernels,
        conv_strides=stack.strides,
        hidden_size=shape.hidden_size,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        ffn_size=shape.ffn_size,
        pos_kernel=shape.pos_kernel,
    )
