"""What a candidate architecture is: a small network whose widths are searched. B: records, L: leads, T: timesteps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import linear


@dataclass(frozen=True)
class Sizes:
    """What a candidate is built for.

    Attributes:
        n_outputs: label columns; a binary task has one.
        channels: filters of each layer, as many as the class's `channels`.
        fc_width: units of the hidden fully connected layer; 0 where the class has none.
        dropout: for the candidates that drop out.
    """

    n_leads: int
    n_timesteps: int
    n_outputs: int
    channels: tuple[int, ...]
    fc_width: int
    dropout: float

    def output(self, n_features: int) -> nn.Linear:
        """Return the last layer, features_BF -> logits_BK."""
        return TwoClassLinear(n_features) if self.n_outputs == 1 else nn.Linear(n_features, self.n_outputs)

    def length_after(self, kernel_sizes: Sequence[int], stride: int = 2) -> int:
        """Return the timesteps that convolutions without padding leave.

        Raises:
            ValueError: none.
        """
        n_timesteps = self.n_timesteps
        for kernel_size in kernel_sizes:
            n_timesteps = (n_timesteps - kernel_size) // stride + 1
            if n_timesteps < 1:
                raise ValueError(
                    f"convolutions of {', '.join(map(str, kernel_sizes))} timesteps at stride {stride} need longer "
                    f"records, but got {self.n_timesteps} timesteps; take another model"
                )
        return n_timesteps


class Candidate(nn.Sequential, ABC):
    """A small network, ecg_BLT -> logits_BK; a row of `trainables.candidates.CANDIDATES`.

    Attributes:
        channels: filters of each layer as published; a factor s of the search multiplies them by s / 4.
        fc_width: units of the hidden fully connected layer as published, which a factor f multiplies by f / 2; 0: none.
        least_channels: of any layer.
    """

    channels: ClassVar[tuple[int, ...]]
    fc_width: ClassVar[int] = 0
    least_channels: ClassVar[int] = 1

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(*self.layers(sizes))

    @staticmethod
    @abstractmethod
    def layers(sizes: Sizes) -> Iterable[nn.Module]:
        """Return the network's layers in order; the last is `sizes.output`."""


class TwoClassLinear(nn.Linear):
    """A linear layer with two outputs that answers with their difference: features_BF -> logit_B1.

    Its binary cross-entropy is the cross-entropy of the two outputs, so a network keeps the two outputs it was
    published with where the task has one column. An exporter folds the difference into one row of weights.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, 2)

    def forward(self, features_BF: Tensor) -> Tensor:
        return linear(features_BF, self.weight[1:] - self.weight[:1], self.bias[1:] - self.bias[:1])
