"""Networks of split and concatenated channels, after ShuffleNet V2 (Ma et al. 2018, arXiv:1807.11164).

B: records, C: channels, T: timesteps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainables.candidates.blocks import SqueezeExcite, conv_bn, pool
from trainables.candidates.candidate import Candidate, Sizes


class ShuffleNetV2(Candidate):
    """The ECM search's variant without channel shuffle: 36,394 parameters on one lead.

    Its details are inferred from the published size, about 36,400 parameters.
    """

    channels = (16, 32, 64, 128)
    least_channels = 2

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return _split_network(sizes, n_blocks=(2, 2, 1))


class TinyShuffleNet(Candidate):
    """The ECM search's earlier version: few channels, many blocks."""

    channels = (4, 8, 16)
    least_channels = 2

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return _split_network(sizes, n_blocks=(4, 2))


class TorchShuffleNetV2(Candidate):
    """torchvision's `shufflenet_v2_x0_5` on time alone, with its channel shuffle."""

    channels = (24, 48, 96, 192, 1024)
    least_channels = 4

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        stem, *stages, last = sizes.channels
        yield nn.Sequential(*conv_bn(sizes.n_leads, stem, 3, stride=2), nn.ReLU(), nn.MaxPool1d(3, 2, padding=1))
        width = stem
        for asked, n_blocks in zip(stages, (4, 8, 4), strict=True):
            wide = asked - asked % 2  # two halves are shuffled
            yield _Shuffled(width, wide, stride=2)
            yield from (_Shuffled(wide, wide) for _ in range(n_blocks - 1))
            width = wide
        yield nn.Sequential(*conv_bn(width, last, 1), nn.ReLU(), *pool(), sizes.output(last))


def _split_network(sizes: Sizes, n_blocks: tuple[int, ...]) -> Iterator[nn.Module]:
    stem, last = sizes.channels[0], sizes.channels[-1]
    yield nn.Sequential(nn.Conv1d(sizes.n_leads, stem, 3, stride=2, padding=1), nn.ReLU(), nn.BatchNorm1d(stem))
    for (narrow, wide), number in zip(pairwise(sizes.channels), n_blocks, strict=True):
        yield _Split(narrow, wide, stride=2)
        yield from (_Split(wide, wide) for _ in range(number - 1))
    yield SqueezeExcite(last, 16)
    yield from pool()
    yield sizes.output(last)


class _Split(nn.Module):
    """Half of the channels goes through a depthwise-separable convolution, then a 1 x 1 mixes all: x_BCT -> x_BCT."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.n_kept = in_channels // 2
        n_through = in_channels - self.n_kept
        n_made = out_channels - self.n_kept
        self.shrink = nn.MaxPool1d(stride) if stride > 1 else nn.Identity()
        self.through = nn.Sequential(
            nn.Conv1d(n_through, n_through, 3, padding=1, groups=n_through, bias=False),
            nn.Conv1d(n_through, n_made, 1),
            nn.ReLU(),
            nn.BatchNorm1d(n_made),
        )
        self.mix = nn.Sequential(nn.Conv1d(out_channels, out_channels, 1), nn.ReLU(), nn.BatchNorm1d(out_channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        x_BCT = self.shrink(x_BCT)
        kept_BCT, rest_BCT = x_BCT[:, : self.n_kept], x_BCT[:, self.n_kept :]
        mixed_BCT: Tensor = self.mix(torch.cat([kept_BCT, self.through(rest_BCT)], dim=1))
        return mixed_BCT


class _Shuffled(nn.Module):
    """ShuffleNet V2's unit: x_BCT -> x_BCT; with stride 2 both halves see all channels."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        half, self.is_split = out_channels // 2, stride == 1
        n_seen = half if self.is_split else in_channels
        self.left = nn.Identity() if self.is_split else nn.Sequential(*_depthwise(n_seen, half, stride))
        self.right = nn.Sequential(*conv_bn(n_seen, half, 1), nn.ReLU(), *_depthwise(half, half, stride))

    def forward(self, x_BCT: Tensor) -> Tensor:
        left_BCT, right_BCT = x_BCT.chunk(2, dim=1) if self.is_split else (x_BCT, x_BCT)
        halves = torch.stack([self.left(left_BCT), self.right(right_BCT)], dim=2)
        return halves.flatten(1, 2)  # channels alternate: the shuffle


def _depthwise(in_channels: int, out_channels: int, stride: int) -> Iterator[nn.Module]:
    yield from conv_bn(in_channels, in_channels, 3, stride, groups=in_channels)
    yield from conv_bn(in_channels, out_channels, 1)
    yield nn.ReLU()
