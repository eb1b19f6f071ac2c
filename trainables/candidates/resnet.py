"""Residual networks on time alone, after He et al. 2015 (arXiv:1512.03385)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

from torch import nn

from trainables.candidates.blocks import Residual, conv_bn, pool
from trainables.candidates.candidate import Candidate, Sizes


class SimpleResNet(Candidate):
    """A stem of 7 timesteps and one residual block a width."""

    channels = (32, 64, 128, 256)

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return _residual_network(sizes, kernel_size=7, n_blocks=1)


class ResNet384(Candidate):
    """The ECM search's one-dimensional network of 24 to 384 filters: one residual block a width."""

    channels = (24, 48, 96, 192, 384)

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return _residual_network(sizes, kernel_size=15, n_blocks=1)


class ResNet18(Candidate):
    """torchvision's `resnet18` on time alone."""

    channels = (64, 128, 256, 512)

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return _residual_network(sizes, kernel_size=7, n_blocks=2)


class BoardResNet(Candidate):
    """The network deployed on the contest's board without conversion: a stem, two residual blocks, a hidden layer.

    Its first block, as published, adds 32 channels to 16; here the shortcut is projected.
    """

    channels = (32, 16, 16)
    fc_width = 16

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield from _stem(sizes, kernel_size=7)
        yield from (Residual(narrow, wide) for narrow, wide in pairwise(sizes.channels))
        yield from pool()
        yield from (nn.Linear(sizes.channels[-1], sizes.fc_width), nn.ReLU(), sizes.output(sizes.fc_width))


def _stem(sizes: Sizes, kernel_size: int) -> Iterator[nn.Module]:
    yield from conv_bn(sizes.n_leads, sizes.channels[0], kernel_size, stride=2)
    yield from (nn.ReLU(), nn.MaxPool1d(3, 2, padding=1))


def _residual_network(sizes: Sizes, kernel_size: int, n_blocks: int) -> Iterator[nn.Module]:
    """Yield a stem, and `n_blocks` blocks a width, the first of which halves time (but for the first width's)."""
    yield from _stem(sizes, kernel_size)
    for number, (narrow, wide) in enumerate(pairwise((sizes.channels[0], *sizes.channels))):
        yield Residual(narrow, wide, stride=2 if number else 1)
        yield from (Residual(wide, wide) for _ in range(n_blocks - 1))
    yield from pool()
    yield sizes.output(sizes.channels[-1])
