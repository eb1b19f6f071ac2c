"""A frozen function for tests of kept features."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.features import FrozenFunction

CPU = torch.device("cpu")


class Spread:
    """A frozen function that counts the records it is asked about."""

    def __init__(self, digest: str = "spread") -> None:
        self.n_records = 0
        self.frozen = FrozenFunction("spread", digest, self, CPU)

    def __call__(self, ecg_BLT: Tensor) -> Tensor:
        self.n_records += len(ecg_BLT)
        return ecg_BLT.std(dim=2)
