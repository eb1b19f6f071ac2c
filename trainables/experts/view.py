"""What an expert sees of a record: some leads, at its rate, normalised, in windows. All of it exports to ONNX.

B: records, W: windows of a record, R = B W: windows of a batch, S = B L: series, L: leads, T: timesteps, P: phases.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from torch import Tensor, nn

from data.dataset import Signal
from data.leads import MIN_SD_MV
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

    def forward(self, ecg_BLT: Tensor) -> Windows:
        length_B11 = before_padding(ecg_BLT).sum(dim=2, keepdim=True).long()
        leads = [torch.zeros_like(ecg_BLT[:, 0]) if row is None else ecg_BLT[:, row] for row in self._sources]
        ecg_BLT, length_B11 = self._resample(torch.stack(leads, dim=1), length_B11)
        ecg_BLT = _normalise(ecg_BLT, length_B11, self._wanted)
        return cut_side_by_side(ecg_BLT, length_B11, self._resample.n_timesteps, self._wanted.n_timesteps)


def cut_side_by_side(ecg_BLT: Tensor, length_B11: Tensor, n_stored: int, n_timesteps: int) -> Windows:
    """Cut records into windows of `n_timesteps` side by side, of which the last ends with the record.

    Args:
        n_stored: T; a number, which a traced shape is not.
    """
    n_windows = count_windows(n_stored, n_timesteps, n_timesteps)
    lacking = n_timesteps - n_stored
    if lacking > 0:
        ecg_BLT = nn.functional.pad(ecg_BLT, (0, lacking))
    window_BWLT, start_BW, is_there_BW = cut_windows(ecg_BLT, length_B11[:, :, 0], n_timesteps, n_timesteps, n_windows)
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
    if wanted.normalisation == "minmax":
        return _to_unit_range(ecg_BLT, is_signal_B1T)
    over, n_leads = ((2,), 1) if wanted.normalisation == "lead" else ((1, 2), ecg_BLT.shape[1])
    n_B11 = length_B11.clamp(min=1) * n_leads
    centred_BLT = (ecg_BLT - ecg_BLT.sum(dim=over, keepdim=True) / n_B11) * is_signal_B1T
    deviation = (centred_BLT.square().sum(dim=over, keepdim=True) / n_B11).sqrt()
    return torch.where(deviation > SMALLEST_DEVIATION, centred_BLT / deviation.clamp(min=SMALLEST_DEVIATION), 0.0)


def _to_unit_range(ecg_BLT: Tensor, is_signal_B1T: Tensor) -> Tensor:
    """Scale each lead's signal to -1 to 1, as `data.scaling.MinMax`; a constant one becomes zero."""
    is_padding_B1T = is_signal_B1T == 0
    low_BL1 = ecg_BLT.masked_fill(is_padding_B1T, math.inf).amin(dim=2, keepdim=True)
    range_BL1 = ecg_BLT.masked_fill(is_padding_B1T, -math.inf).amax(dim=2, keepdim=True) - low_BL1
    scaled_BLT = 2 * (ecg_BLT - low_BL1) / range_BL1.clamp(min=MIN_SD_MV) - 1
    return torch.where((range_BL1 > MIN_SD_MV) & ~is_padding_B1T, scaled_BLT, 0.0)


def _before(length_B11: Tensor, ecg_BLT: Tensor) -> Tensor:
    """Return is_signal_B1T."""
    position_T = torch.arange(ecg_BLT.shape[2], device=ecg_BLT.device)
    return (position_T < length_B11).to(ecg_BLT.dtype)


# ------------------------------------------------------------------ another rate


class _Resample(nn.Module):
    """`data.resampling.resample` of each record's own length: (ecg_BLT, length_B11) -> both at `wanted.fs_hz`."""

    kernel_P1K: Tensor

    def __init__(self, wanted: ExpertInput, signal: Signal) -> None:
        super().__init__()
        self._ratio, self._method = rate_ratio(signal.fs_hz, wanted.fs_hz), wanted.resampling
        self.n_timesteps = resampled_length(signal.n_timesteps, signal.fs_hz, wanted.fs_hz, wanted.resampling)
        if wanted.resampling == "polyphase" and self._ratio != 1:
            kernel_P1K, self._reach = _low_pass(self._ratio)
            # not persistent: it follows from the two rates
            self.register_buffer("kernel_P1K", torch.from_numpy(kernel_P1K), persistent=False)
            n_strides = -(-self.n_timesteps // self._ratio.numerator)
            needed = (n_strides - 1) * self._ratio.denominator + kernel_P1K.shape[2]
            self._beyond = max(0, needed - self._reach - signal.n_timesteps)

    def forward(self, ecg_BLT: Tensor, length_B11: Tensor) -> tuple[Tensor, Tensor]:
        if self._ratio == 1:
            return ecg_BLT, length_B11
        scaled_B11, down = length_B11 * self._ratio.numerator, self._ratio.denominator
        if self._method == "linear":
            return self._interpolate(ecg_BLT, length_B11, torch.div(scaled_B11, down, rounding_mode="floor"))
        return self._polyphase(ecg_BLT, length_B11, torch.div(scaled_B11 + down - 1, down, rounding_mode="floor"))

    def _interpolate(self, ecg_BLT: Tensor, from_B11: Tensor, to_B11: Tensor) -> tuple[Tensor, Tensor]:
        """Draw straight lines between timesteps, from a record's first to its last."""
        last_B11 = (from_B11 - 1).clamp(min=0)
        time_T = torch.arange(self.n_timesteps, device=ecg_BLT.device)
        position_B1T = time_T * (last_B11 / (to_B11 - 1).clamp(min=1))
        left_B1T = torch.minimum(position_B1T.long(), (last_B11 - 1).clamp(min=0))
        right_B1T = torch.minimum(left_B1T + 1, last_B11)
        left_BLT, right_BLT = (
            torch.gather(ecg_BLT, 2, index_B1T.expand(-1, ecg_BLT.shape[1], -1)) for index_B1T in (left_B1T, right_B1T)
        )
        drawn_BLT = left_BLT + (right_BLT - left_BLT) * (position_B1T - left_B1T)
        return drawn_BLT * _before(to_B11, drawn_BLT), to_B11

    def _polyphase(self, ecg_BLT: Tensor, from_B11: Tensor, to_B11: Tensor) -> tuple[Tensor, Tensor]:
        """Filter each record, which goes on along the line between its ends: with zeros both would ring."""
        last_B11 = (from_B11 - 1).clamp(min=0)
        first_BL1 = ecg_BLT[:, :, :1]
        end_BL1 = torch.gather(ecg_BLT, 2, last_B11.expand(-1, ecg_BLT.shape[1], -1))
        time_T = torch.arange(-self._reach, ecg_BLT.shape[2] + self._beyond, device=ecg_BLT.device)
        line_BLT = first_BL1 + (end_BL1 - first_BL1) / last_B11.clamp(min=1) * time_T
        is_inside_B1T = (time_T >= 0) & (time_T < from_B11)
        wave_BLT = torch.where(is_inside_B1T, nn.functional.pad(ecg_BLT, (self._reach, self._beyond)), line_BLT)
        resampled_BLT = self._convolve(wave_BLT)
        return resampled_BLT * _before(to_B11, resampled_BLT), to_B11

    def _convolve(self, wave_BLT: Tensor) -> Tensor:
        """Take every timestep of the new rate: those that lie alike between the old ones by one kernel."""
        n_leads = wave_BLT.shape[1]
        wave_S1T = wave_BLT.reshape(-1, 1, wave_BLT.shape[2])
        resampled_SPT = nn.functional.conv1d(wave_S1T, self.kernel_P1K, stride=self._ratio.denominator)
        resampled_ST = resampled_SPT.transpose(1, 2).flatten(1)[:, : self.n_timesteps]
        return resampled_ST.reshape(-1, n_leads, self.n_timesteps)


def _low_pass(ratio: Fraction) -> tuple[NDArray[np.float32], int]:
    """Return the filter of `scipy.signal.resample_poly` as one kernel a phase, and how far before 0 they begin.

    New timestep n = m up + p is the sum over i of x[m down + i] h[p down - i up + half], where h is the filter at the
    rate that both rates divide, 2 half + 1 long.
    """
    up, down = ratio.numerator, ratio.denominator
    half = 10 * max(up, down)
    filter_K = scipy_signal.firwin(2 * half + 1, 1 / max(up, down), window=("kaiser", 5.0)) * up
    reach = half // up
    offset_K = np.arange(-reach, ((up - 1) * down + half) // up + 1)
    index_PK = np.arange(up)[:, None] * down - offset_K * up + half
    is_inside_PK = (index_PK >= 0) & (index_PK <= 2 * half)
    kernel_PK = np.where(is_inside_PK, filter_K[index_PK.clip(0, 2 * half)], 0)
    return kernel_PK[:, None].astype(np.float32), reach
