"""A bidirectional LSTM over the leads' samples, pooled as in the PTB-XL benchmark: mean, max and last, side by side.

B: records, L: leads, T: timesteps, H: hidden units of both directions, the forward ones first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.layers import dense_head

HIDDEN = 256  # of each direction
LAYERS = 2
HEAD_WIDTH = 128


class BidirectionalLstm(nn.Module):
    """ecg_BLT -> pooled_B(3H): mean and max over time, and each direction's state after its last step.

    The benchmark's code takes both directions at the last timestep, where the backward one has seen a single sample;
    this takes the backward one at the first, where it has seen all.
    """

    def __init__(self, n_leads: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_leads, HIDDEN, LAYERS, batch_first=True, bidirectional=True)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        states_BTH, _ = self.lstm(ecg_BLT.transpose(1, 2))
        last_BH = torch.cat([states_BTH[:, -1, :HIDDEN], states_BTH[:, 0, HIDDEN:]], dim=1)
        return torch.cat([states_BTH.mean(dim=1), states_BTH.amax(dim=1), last_BH], dim=1)


def build_lstm_bidir(n_leads: int, n_outputs: int, dropout: float) -> nn.Sequential:
    """Build lstm_bidir: ecg_BLT -> logits_BK."""
    return nn.Sequential(BidirectionalLstm(n_leads), *dense_head(3 * 2 * HIDDEN, HEAD_WIDTH, n_outputs, dropout))
