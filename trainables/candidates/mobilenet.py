"""Networks of depthwise-separable convolutions. B: records, C: channels, T: timesteps."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import Tensor, nn

from trainables.candidates.blocks import SqueezeExcite, conv_bn, pool
from trainables.candidates.candidate import Candidate, Sizes

EXPANSION = 4  # of an inverted bottleneck


class SimplifiedMobileNet(Candidate):
    """A stem and three depthwise-separable convolutions, after MobileNet (Howard et al. 2017, arXiv:1704.04861)."""

    channels = (16, 32, 64, 128)

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield nn.Sequential(*conv_bn(sizes.n_leads, sizes.channels[0], 3, stride=2), nn.ReLU())
        for narrow, wide in pairwise(sizes.channels):
            depthwise = conv_bn(narrow, narrow, 3, stride=2, groups=narrow)
            yield nn.Sequential(*depthwise, nn.ReLU(), *conv_bn(narrow, wide, 1), nn.ReLU())
        yield from (*pool(), nn.Dropout(sizes.dropout), sizes.output(sizes.channels[-1]))


class SimplifiedEfficientNet(Candidate):
    """A stem and four inverted bottlenecks, after EfficientNet (Tan and Le 2019, arXiv:1905.11946)."""

    channels = (16, 16, 24, 40, 80)

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield nn.Sequential(*conv_bn(sizes.n_leads, sizes.channels[0], 3, stride=2), nn.SiLU())
        yield from (_InvertedBottleneck(narrow, wide) for narrow, wide in pairwise(sizes.channels))
        yield from (*pool(), nn.Dropout(sizes.dropout), sizes.output(sizes.channels[-1]))


class _InvertedBottleneck(nn.Module):
    """Expand, convolve each channel, weigh, narrow: x_BCT -> x_BCT, of half the time unless the width stays."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden, self.adds = EXPANSION * in_channels, in_channels == out_channels
        self.body = nn.Sequential(
            *conv_bn(in_channels, hidden, 1),
            nn.SiLU(),
            *conv_bn(hidden, hidden, 3, stride=1 if self.adds else 2, groups=hidden),
            nn.SiLU(),
            SqueezeExcite(hidden, 4 * EXPANSION, nn.SiLU),
            *conv_bn(hidden, out_channels, 1),
        )

    def forward(self, x_BCT: Tensor) -> Tensor:
        y_BCT: Tensor = self.body(x_BCT)
        return x_BCT + y_BCT if self.adds else y_BCT
