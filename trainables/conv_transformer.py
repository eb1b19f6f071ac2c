"""The backbone of H-Tuning and AdaGrad-Fusion: three residual convolutions, then transformer layers over their tokens.

B: records, L: leads, T: timesteps, C: width, N: tokens (64 timesteps each), K: outputs.

Attention looks back only by default, an oddity in a classifier, since the published weights were trained so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Size = Literal["nano", "tinylight", "tiny", "light", "base", "mediumv2", "medium", "large"]

N_CONV_BLOCKS, CONV_STRIDE, KERNEL_SIZE = 3, 4, 9
TIMESTEPS_A_TOKEN = CONV_STRIDE**N_CONV_BLOCKS


class Dimensions(NamedTuple):
    """What tells the named sizes apart."""

    width: int
    n_layers: int
    n_heads: int = 16


SIZES: Mapping[Size, Dimensions] = {  # parameters with a head of 25 outputs
    "nano": Dimensions(16, 1, n_heads=4),  # 0.017 M, ours, for searches without a GPU
    "tinylight": Dimensions(64, 1),  # 0.257 M, the student
    "tiny": Dimensions(128, 4),  # 1.60 M
    "light": Dimensions(128, 8),  # 2.39 M
    "base": Dimensions(256, 8),  # 9.51 M
    "mediumv2": Dimensions(512, 8),  # 37.9 M
    "medium": Dimensions(512, 12),  # 50.5 M, the teacher
    "large": Dimensions(768, 12),  # 113.5 M
}


class ConvBlock(nn.Module):
    """Two convolutions beside an averaging skip: x_BCT -> x_BC(T/4), for T a multiple of 4."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        padding = KERNEL_SIZE // 2
        self.conv1 = nn.Conv1d(in_channels, width, KERNEL_SIZE, CONV_STRIDE, padding)
        self.norm1 = nn.BatchNorm1d(width)
        self.conv2 = nn.Conv1d(width, width, KERNEL_SIZE, padding=padding)
        self.norm2 = nn.BatchNorm1d(width)
        self.skip = nn.Conv1d(in_channels, width, 1)

    def forward(self, x_BCT: Tensor) -> Tensor:
        inner_BCT = F.leaky_relu(self.norm1(self.conv1(x_BCT)), inplace=True)
        inner_BCT = F.leaky_relu(self.norm2(self.conv2(inner_BCT)), inplace=True)
        skipped_BCT: Tensor = self.skip(F.avg_pool1d(x_BCT, CONV_STRIDE))
        return inner_BCT + skipped_BCT


class TransformerLayer(nn.Module):
    """A pre-norm layer without dropout: tokens_BNC -> tokens_BNC; `causal`: a token sees itself and those before it.

    H: heads, D: width of a head.
    """

    def __init__(self, width: int, n_heads: int, causal: bool) -> None:
        super().__init__()
        self.n_heads, self.causal = n_heads, causal
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.ffn1 = nn.Linear(width, 4 * width)
        self.ffn2 = nn.Linear(4 * width, width)

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        tokens_BNC = tokens_BNC + self._attend(self.norm1(tokens_BNC))
        inner_BNC: Tensor = self.ffn2(F.leaky_relu(self.ffn1(self.norm2(tokens_BNC)), inplace=True))
        return tokens_BNC + inner_BNC

    def _attend(self, tokens_BNC: Tensor) -> Tensor:
        q_BHND, k_BHND, v_BHND = (self._split(part_BNC) for part_BNC in self.qkv(tokens_BNC).chunk(3, dim=2))
        mixed_BHND = F.scaled_dot_product_attention(q_BHND, k_BHND, v_BHND, is_causal=self.causal)
        mixed_BNC: Tensor = self.out(mixed_BHND.transpose(1, 2).flatten(2))
        return mixed_BNC

    def _split(self, part_BNC: Tensor) -> Tensor:
        n_tokens, width = part_BNC.shape[1:]
        return part_BNC.reshape(-1, n_tokens, self.n_heads, width // self.n_heads).transpose(1, 2)


class ConvTransformer(nn.Module):
    """Map ecg_BLT to features_BC: convolutions, a code of each token's place, layers, the maximum over tokens.

    Records are padded with zeros to whole tokens.
    """

    positions_NC: Tensor

    def __init__(self, size: Size, n_leads: int, n_timesteps: int, causal: bool = True) -> None:
        super().__init__()
        self.width, n_layers, n_heads = SIZES[size]
        widths = (n_leads, *(self.width,) * N_CONV_BLOCKS)
        self.blocks = nn.ModuleList(ConvBlock(widths[i], widths[i + 1]) for i in range(N_CONV_BLOCKS))
        self.layers = nn.ModuleList(TransformerLayer(self.width, n_heads, causal) for _ in range(n_layers))
        self.padding = -n_timesteps % TIMESTEPS_A_TOKEN
        n_tokens = (n_timesteps + self.padding) // TIMESTEPS_A_TOKEN
        self.register_buffer("positions_NC", sinusoids(n_tokens, self.width), persistent=False)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        x_BCT = F.pad(ecg_BLT, (0, self.padding)) if self.padding else ecg_BLT
        for block in self.blocks:
            x_BCT = block(x_BCT)
        tokens_BNC = x_BCT.transpose(1, 2) + self.positions_NC
        for layer in self.layers:
            tokens_BNC = layer(tokens_BNC)
        return tokens_BNC.amax(dim=1)


def sinusoids(n_tokens: int, width: int) -> Tensor:
    """Return positions_NC: sines and cosines of wavelengths from 2 pi to 10,000 * 2 pi (Vaswani et al. 2017, 3.5)."""
    rate_C = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angle_NC = torch.arange(n_tokens)[:, None] * rate_C
    return torch.stack([angle_NC.sin(), angle_NC.cos()], dim=2).flatten(1)
