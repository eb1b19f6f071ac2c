"""Records for experts: noise and beats, of which some end before the store's length."""

from __future__ import annotations

import torch
from torch import Tensor

from data.dataset import Signal
from data.leads import LEADS_12

SIGNAL = Signal(LEADS_12, 100.0, 1_000)


def records_of(signal: Signal = SIGNAL, lengths: tuple[int, ...] = (1_000, 700, 1_000), seed: int = 0) -> Tensor:
    """Return ecg_BLT, zero behind each record's length."""
    generator = torch.Generator().manual_seed(seed)
    n_leads = len(signal.lead_names)
    ecg_BLT = torch.randn(len(lengths), n_leads, signal.n_timesteps, generator=generator) * 0.2
    time_T = torch.arange(signal.n_timesteps) / signal.fs_hz
    ecg_BLT += torch.sin(2 * torch.pi * time_T * torch.rand(len(lengths), n_leads, 1, generator=generator) * 8)
    for row, length in enumerate(lengths):
        ecg_BLT[row, :, length:] = 0
    return ecg_BLT
