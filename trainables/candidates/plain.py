"""Candidates without branches: a linear classifier, and stacks of convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from torch import nn

from trainables.candidates.blocks import conv_bn, pool
from trainables.candidates.candidate import Candidate, Sizes


class LinearBinaryClassifier(Candidate):
    """One linear layer on the raw signal: the least that any other candidate must beat."""

    channels = ()

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        return nn.Flatten(), sizes.output(sizes.n_leads * sizes.n_timesteps)


class SimpleCNN(Candidate):
    """Three convolutions of 5 timesteps, each with a max-pool, and a hidden layer."""

    channels = (16, 32, 64)
    fc_width = 32

    @staticmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        for narrow, wide in pairwise((sizes.n_leads, *sizes.channels)):
            yield nn.Sequential(*conv_bn(narrow, wide, 5), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True))
        yield from pool()
        yield from (nn.Linear(sizes.channels[-1], sizes.fc_width), nn.ReLU(), nn.Dropout(sizes.dropout))
        yield sizes.output(sizes.fc_width)
