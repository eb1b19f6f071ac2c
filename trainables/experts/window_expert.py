"""Experts that read one window of some leads at a time: a record's features are the mean over its windows.

B: records, R: windows of a batch, L: leads, T: timesteps, D: features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from data.dataset import Signal
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import Expert, ExpertInput
from trainables.experts.view import View


class WindowExpert(Expert):
    """ecg_BLT -> features_BD by way of `view` and `encode`."""

    def __init__(self, config: ExpertConfig, signal: Signal, widths: Mapping[str, int], wanted: ExpertInput) -> None:
        super().__init__(config, signal, widths, wanted)
        self.view = View(wanted, signal)

    @abstractmethod
    def encode(self, ecg_RLT: Tensor, is_signal_RT: Tensor) -> Mapping[str, Tensor]:
        """Return each of `config.features` of the windows, (R, width); others may be among them."""

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        windows = self.view(ecg_BLT)
        encoded = self.encode(windows.ecg_RLT, windows.is_signal_RT)
        features_BD: Tensor = windows.mean(torch.cat([encoded[name] for name in self.widths], dim=1))
        return features_BD
