"""AFNet and its relatives of the IESD-2024 contest: strided convolutions without padding.

Structures after github.com/JokerJostar/ECM-ATML_loongarch64, batch norm after the activation as there; its
two-dimensional layers act on time alone, so these are the same networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from trainables.candidates.blocks import SqueezeExcite, pool
from trainables.candidates.candidate import Candidate, Sizes

_KERNELS = (6, 5, 4, 4, 4)


class AFNet(Candidate):
    """Five convolutions with squeeze-excite after the third and the fifth: 19,688 parameters on one lead of 1,250."""

    channels = (4, 8, 16, 32, 32)
    fc_width = 10

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        convolutions = list(_convolutions(sizes, _KERNELS, nn.SiLU))
        for place in (3, 5):
            width = sizes.channels[place - 1]
            convolutions[place - 1].append(SqueezeExcite(width, 4, nn.SiLU))
        yield from convolutions
        yield from _flat_head(sizes, nn.SiLU())


class ContestAFNet(Candidate):
    """The contest's baseline, from which AFNet was derived: 10,299 parameters on one lead of 1,250."""

    channels = (3, 5, 10, 20, 20)
    fc_width = 10

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield from _convolutions(sizes, _KERNELS, nn.ReLU)
        yield from _flat_head(sizes, nn.ReLU())


class OptimizedAFNet(Candidate):
    """Three convolutions and the mean over time: 2,962 parameters on one lead."""

    channels = (8, 16, 32)
    fc_width = 16

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield from _convolutions(sizes, (7, 5, 3), partial(nn.LeakyReLU, 0.1))
        yield from _pooled_head(sizes)


class OptimizedAFNet5(Candidate):
    """OptimizedAFNet's older version of five convolutions: 96,130 parameters on one lead, its kernels inferred."""

    channels = (16, 32, 64, 128, 128)
    fc_width = 64

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        yield from _convolutions(sizes, (7, 5, 5, 3, 3), partial(nn.LeakyReLU, 0.1))
        yield from _pooled_head(sizes)


def _convolutions(
    sizes: Sizes, kernel_sizes: Sequence[int], activation: Callable[[], nn.Module]
) -> Iterator[nn.Sequential]:
    sizes.length_after(kernel_sizes)  # refuses records that are too short
    for (narrow, wide), kernel_size in zip(pairwise((sizes.n_leads, *sizes.channels)), kernel_sizes, strict=True):
        yield nn.Sequential(nn.Conv1d(narrow, wide, kernel_size, stride=2), activation(), nn.BatchNorm1d(wide))


def _flat_head(sizes: Sizes, activation: nn.Module) -> Iterator[nn.Module]:
    yield nn.Flatten()
    yield nn.Dropout(sizes.dropout)
    yield nn.Linear(sizes.channels[-1] * sizes.length_after(_KERNELS), sizes.fc_width)
    yield activation
    yield sizes.output(sizes.fc_width)


def _pooled_head(sizes: Sizes) -> Iterator[nn.Module]:
    yield from pool()
    yield nn.Dropout(sizes.dropout)
    yield nn.Linear(sizes.channels[-1], sizes.fc_width)
    yield nn.LeakyReLU(0.1)
    yield sizes.output(sizes.fc_width)
