"""What an expert sees of a record: some leads, at its rate, normalised, in windows. All of it exports to ONNX.

B: records, W: windows of a record, R = B W: windows of a batch, L: leads, T: timesteps.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from scipy import signal as scipy_signal
from torch import Tensor, nn

from data.dataset import Signal
from data.resampling import rate_ratio, resampled_length
from trainables.experts.expert import ExpertInput
from trainables.standardise import SMALLEST_DEVIATION, before_padding
from trainables.windows import count_windows, cut_windows


class Windows(NamedTuple):
    """The windows of a batch, record by record.

    Attributes:
        ecg_RLT: zero where `is_signal_RT` is.
        is_signal_RT: 1 where a window holds signal, 0 behind a record's end.
        is_there_BW: 1 for a window of the record, 0 where it has fewer than the longest.
    """

    ecg_RLT: Tensor
    is_signal_RT: Tensor
    is_there_BW: Tensor

    def mean(self, features_RD: Tensor) -> Tensor:
        """Return the mean over each record's windows, features_BD."""
        features_BWD = features_RD.reshape(-1, self.is_there_BW.shape[1], features_RD.shape[1])
        sums_BD = (features_BWD * self.is_there_BW[:, :, None]).sum(dim=1)
        return sums_BD / self.is_there_BW.sum(dim=1, keepdim=True)


class View(nn.Module):
    """ecg_BLT of `signal` -> the windows that `wanted` asks for.

    Windows lie side by side, the last one ends with the record; a record that is shorter than a window has one, padded
    with zeros.

    Raises:
        ValueError: a lead is missing, or the rates are in no simple ratio.
    """

    def __init__(self, wanted: ExpertInput, signal: Signal) -> None:
        super().__init__()
        self._wanted = wanted
        self._sources = _sources(wanted, signal)
        self._resample = _Resample(wanted, signal)
        self.n_windows = count_windows(self._resample.n_timesteps, wanted.n_timesteps, wanted.n_timesteps)

    def forward(self, ecg_BLT: Tensor) -> Windows:
        length_B11 = before_padding(ecg_BLT).sum(dim=2, keepdim=True).long()
        leads = [torch.zeros_like(ecg_BLT[:, 0]) if row is None else ecg_BLT[:, row] for row in self._sources]
        ecg_BLT, length_B11 = self._resample(torch.stack(leads, dim=1), length_B11)
        ecg_BLT = _normalise(ecg_BLT, length_B11, self._wanted)
        return self._cut(ecg_BLT, length_B11)

    def _cut(self, ecg_BLT: Tensor, length_B11: Tensor) -> Windows:
        n_timesteps = self._wanted.n_timesteps
        lacking = n_timesteps - self._resample.n_timesteps
        if lacking > 0:
            ecg_BLT = nn.functional.pad(ecg_BLT, (0, lacking))
        window_BWLT, start_BW, is_there_BW = cut_windows(
            ecg_BLT, length_B11[:, :, 0], n_timesteps, n_timesteps, self.n_windows
        )
        position_T = torch.arange(n_timesteps, device=ecg_BLT.device)
        is_signal_BWT = start_BW[:, :, None] + position_T < length_B11
        return Windows(
            window_BWLT.flatten(0, 1),
            is_signal_BWT.flatten(0, 1).to(ecg_BLT.dtype),
            is_there_BW.to(ecg_BLT.dtype),
        )


def _sources(wanted: ExpertInput, signal: Signal) -> list[int | None]:
    """Return for each wanted lead where it lies, None for zeros; a record's only lead stands for any single one."""
    known = {name.lower(): row for row, name in enumerate(signal.lead_names)}
    if len(wanted.lead_names) == len(known) == 1:
        return [0]
    sources = [known.get(name.lower()) for name in wanted.lead_names]
    lacking = [name for name, row in zip(wanted.lead_names, sources, strict=True) if row is None]
    if len(lacking) == len(sources) or (lacking and wanted.missing == "refuse"):
        raise ValueError(
            f"the expert reads {', '.join(wanted.lead_names)}, but the records' leads are "
            f"{', '.join(signal.lead_names)}, without {lacking[0]}; give it others, or leave the expert out"
        )
    return sources


def _normalise(ecg_BLT: Tensor, length_B11: Tensor, wanted: ExpertInput) -> Tensor:
    if wanted.normalisation == "none":
        return ecg_BLT
    is_signal_B1T = _before(length_B11, ecg_BLT)
    over, n_leads = ((2,), 1) if wanted.normalisation == "lead" else ((1, 2), ecg_BLT.shape[1])
    n_B11 = length_B11.clamp(min=1) * n_leads
    centred_BLT = (ecg_BLT - ecg_BLT.sum(dim=over, keepdim=True) / n_B11) * is_signal_B1T
    deviation = (centred_BLT.square().sum(dim=over, keepdim=True) / n_B11).sqrt()
    return torch.where(deviation > SMALLEST_DEVIATION, centred_BLT / deviation.clamp(min=SMALLEST_DEVIATION), 0.0)


def _before(length_B11: Tensor, ecg_BLT: Tensor) -> Tensor:
    """Return is_signal_B1T."""
    position_T = torch.arange(ecg_BLT.shape[2], device=ecg_BLT.device)
    return (position_T < length_B11).to(ecg_BLT.dtype)


# ------------------------------------------------------------------ another rate


class _Resample(nn.Module):
    """`data.resampling.resample` on padded tensors: (ecg_BLT, length_B11) -> the same at `wanted.fs_hz`.

    Linear: the straight lines lead from the first to the last timestep of the padded record.
    """

    kernel_1K: Tensor

    def __init__(self, wanted: ExpertInput, signal: Signal) -> None:
        super().__init__()
        self._ratio, self._method = rate_ratio(signal.fs_hz, wanted.fs_hz), wanted.resampling
        self.n_timesteps = resampled_length(signal.n_timesteps, signal.fs_hz, wanted.fs_hz, wanted.resampling)
        if wanted.resampling == "polyphase" and self._ratio != 1:
            kernel_1K = torch.from_numpy(_low_pass(self._ratio))[None]
            self.register_buffer("kernel_1K", kernel_1K, persistent=False)  # follows from the two rates

    def forward(self, ecg_BLT: Tensor, length_B11: Tensor) -> tuple[Tensor, Tensor]:
        if self._ratio == 1:
            return ecg_BLT, length_B11
        up, down = self._ratio.numerator, self._ratio.denominator
        if self._method == "linear":
            length_B11 = torch.div(length_B11 * up, down, rounding_mode="floor")
            ecg_BLT = nn.functional.interpolate(ecg_BLT, size=self.n_timesteps, mode="linear", align_corners=True)
            return ecg_BLT * _before(length_B11, ecg_BLT), length_B11
        return self._polyphase(ecg_BLT, length_B11, up, down)

    def _polyphase(self, ecg_BLT: Tensor, length_B11: Tensor, up: int, down: int) -> tuple[Tensor, Tensor]:
        """Filter what lies over the line between each lead's ends, which would ring against the zeros beside it."""
        last_B11 = (length_B11 - 1).clamp(min=0)
        first_BL1 = ecg_BLT[:, :, :1]
        end_BL1 = torch.gather(ecg_BLT, 2, last_B11.expand(-1, ecg_BLT.shape[1], -1))
        slope_BL1 = (end_BL1 - first_BL1) / last_B11.clamp(min=1)
        time_T = torch.arange(ecg_BLT.shape[2], device=ecg_BLT.device)
        over_BLT = (ecg_BLT - first_BL1 - slope_BL1 * time_T) * _before(length_B11, ecg_BLT)
        resampled_BLT = self._convolve(over_BLT, up, down)
        time_T = torch.arange(self.n_timesteps, device=ecg_BLT.device) * (down / up)
        length_B11 = torch.div(length_B11 * up + down - 1, down, rounding_mode="floor")
        resampled_BLT = resampled_BLT + first_BL1 + slope_BL1 * time_T
        return resampled_BLT * _before(length_B11, resampled_BLT), length_B11

    def _convolve(self, ecg_BLT: Tensor, up: int, down: int) -> Tensor:
        n_leads = ecg_BLT.shape[1]
        wave_S1T = ecg_BLT.reshape(-1, 1, ecg_BLT.shape[2])
        if up > 1:  # zeros between the timesteps
            wave_S1TU = nn.functional.pad(wave_S1T[..., None], (0, up - 1))
            wave_S1T = wave_S1TU.flatten(2)
        resampled_S1T = nn.functional.conv1d(
            wave_S1T, self.kernel_1K[None], stride=down, padding=self.kernel_1K.shape[1] // 2
        )
        return resampled_S1T.reshape(-1, n_leads, self.n_timesteps)


def _low_pass(ratio: Fraction) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Return the filter of `scipy.signal.resample_poly`, symmetric and of an odd length."""
    most = max(ratio.numerator, ratio.denominator)
    kernel_K = scipy_signal.firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0)) * ratio.numerator
    return np.asarray(kernel_K, np.float32)
