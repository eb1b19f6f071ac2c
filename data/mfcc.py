"""Mel-frequency cepstra of ECG: Kaldi's recipe (github.com/kaldi-asr/kaldi, feat/feature-mfcc) in a range that fits.

Speech settings do not carry over: at 100 Hz a low cut of 20 Hz leaves out most of an ECG's energy. Several windows a
lead are computed, so that their differences over time (deltas) say something.

N: records, L: leads, T: timesteps, K: windows of a lead, S: timesteps of a window, C: coefficients.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

LIFTER: Final = 22  # Kaldi's default
POVEY_POWER: Final = 0.85  # of a Hann window
DELTA_REACH: Final = 2  # windows before and after
SMALLEST_POWER: Final = float(np.finfo(np.float32).eps)


class MfccConfig(BaseModel):
    """How cepstra are computed. Defaults are Kaldi's, but for the window and the mel range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_s: float = Field(0.64, gt=0, description="length of a window", json_schema_extra={"unit": "s"})
    hop_s: float = Field(0.16, gt=0, description="distance of the windows", json_schema_extra={"unit": "s"})
    low_hz: float = Field(0.5, ge=0, description="lower end of the mel filters", json_schema_extra={"unit": "Hz"})
    high_hz: float | None = Field(
        None,
        gt=0,
        description="upper end of the mel filters; null: 40 Hz, or half the sampling rate where that is less",
        json_schema_extra={"unit": "Hz"},
    )
    n_mels: int = Field(23, ge=2, le=256, description="mel filters")
    n_cepstra: int = Field(13, ge=2, le=256, description="coefficients kept, the zeroth included")
    preemphasis: float = Field(0.97, ge=0, lt=1, description="share of the timestep before that is subtracted")

    @model_validator(mode="after")
    def _check(self) -> MfccConfig:
        if self.n_cepstra > self.n_mels:
            raise ValueError(f"n_cepstra must not exceed n_mels, but got {self.n_cepstra} of {self.n_mels}")
        if self.high_hz is not None and self.high_hz <= self.low_hz:
            raise ValueError(f"`low_hz < high_hz` must hold, but got {self.low_hz:g} and {self.high_hz:g}")
        return self

    def band(self, fs_hz: float) -> tuple[float, float]:
        """Return the ends of the mel filters in Hz.

        Raises:
            ValueError: they exceed half the sampling rate.
        """
        high_hz = min(40.0, fs_hz / 2) if self.high_hz is None else self.high_hz
        if high_hz > fs_hz / 2 or self.low_hz >= high_hz:
            raise ValueError(
                f"`low_hz < high_hz <= fs_hz / 2` must hold, but got {self.low_hz:g}, {high_hz:g} and {fs_hz:g} Hz"
            )
        return self.low_hz, high_hz

    def hop(self, fs_hz: float) -> int:
        return max(1, round(self.hop_s * fs_hz))

    def window(self, fs_hz: float) -> int:
        return max(2, round(self.window_s * fs_hz))

    def n_windows(self, n_timesteps: int, fs_hz: float) -> int:
        """Return how many windows a lead has: one for every whole hop, and one at least."""
        return max(1, n_timesteps // self.hop(fs_hz))


def mfcc(ecg_NLT: NDArray[np.float32], fs_hz: float, config: MfccConfig) -> NDArray[np.float32]:
    """Return cepstra_NLKC of every lead alone. Window k is centred on the k-th hop; ends are mirrored, as Kaldi does.

    Raises:
        ValueError: the mel filters reach beyond half the sampling rate.
    """
    spectrum_S2B, mel_BM, cosine_MC = _operators(fs_hz, config)
    frames_NLKS = _windows(ecg_NLT, fs_hz, config)
    n_bins = len(mel_BM)
    parts = frames_NLKS @ spectrum_S2B
    power = parts[..., :n_bins] ** 2 + parts[..., n_bins:] ** 2
    return np.log(np.maximum(power @ mel_BM, SMALLEST_POWER)) @ cosine_MC


def deltas(values_NLKC: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the slope over the windows of a lead: the regression over two windows before and after, ends repeated."""
    padded = np.pad(values_NLKC, ((0, 0), (0, 0), (DELTA_REACH, DELTA_REACH), (0, 0)), mode="edge")
    n_windows = values_NLKC.shape[2]
    slope = np.zeros_like(values_NLKC)
    for reach in range(1, DELTA_REACH + 1):
        after = padded[:, :, DELTA_REACH + reach : DELTA_REACH + reach + n_windows]
        before = padded[:, :, DELTA_REACH - reach : DELTA_REACH - reach + n_windows]
        slope += np.float32(reach) * (after - before)
    return slope / np.float32(2 * sum(reach**2 for reach in range(1, DELTA_REACH + 1)))


def _windows(ecg_NLT: NDArray[np.float32], fs_hz: float, config: MfccConfig) -> NDArray[np.float32]:
    window, hop = config.window(fs_hz), config.hop(fs_hz)
    n_timesteps = ecg_NLT.shape[2]
    n_windows = config.n_windows(n_timesteps, fs_hz)
    before = max(0, window // 2 - hop // 2)
    after = max(0, (n_windows - 1) * hop + window - before - n_timesteps)
    padded = np.pad(ecg_NLT, ((0, 0), (0, 0), (before, after)), mode="symmetric")
    views = np.lib.stride_tricks.sliding_window_view(padded, window, axis=2)
    return np.ascontiguousarray(views[:, :, ::hop][:, :, :n_windows])


@lru_cache(maxsize=8)
def _operators(
    fs_hz: float, config: MfccConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return what windows are multiplied with: to real and imaginary parts, to mel powers, to liftered cepstra.

    Taking the mean off, pre-emphasis, the window and the Fourier transform are linear: one matrix does all four.
    """
    window = config.window(fs_hz)
    n_fft = _fft_length(window, fs_hz, config)
    identity_SS = np.eye(window)
    centred_SS = identity_SS - 1 / window
    emphasised_SS = centred_SS - config.preemphasis * np.concatenate([centred_SS[:, :1], centred_SS[:, :-1]], axis=1)
    povey_S = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / (window - 1))) ** POVEY_POWER
    spectrum_SB = np.fft.rfft(emphasised_SS * povey_S, n_fft, axis=1)
    mel_BM = mel_filters(n_fft, fs_hz, config)
    used_B = mel_BM.any(axis=1)
    spectrum_S2B = np.concatenate([spectrum_SB.real[:, used_B], spectrum_SB.imag[:, used_B]], axis=1)
    cosine_MC = scipy.fft.dct(np.eye(config.n_mels), type=2, norm="ortho", axis=1)[:, : config.n_cepstra]
    lifter_C = 1 + LIFTER / 2 * np.sin(np.pi * np.arange(config.n_cepstra) / LIFTER)
    return (
        spectrum_S2B.astype(np.float32),
        mel_BM[used_B].astype(np.float32),
        (cosine_MC * lifter_C).astype(np.float32),
    )


def mel_filters(n_fft: int, fs_hz: float, config: MfccConfig) -> NDArray[np.float64]:
    """Return mel_BM: triangles evenly spaced on the mel scale, 1127 ln(1 + f / 700), over the bins of an FFT."""
    low_hz, high_hz = config.band(fs_hz)
    edges = np.linspace(_mel(low_hz), _mel(high_hz), config.n_mels + 2)
    bins_B1 = _mel(np.arange(n_fft // 2 + 1) * fs_hz / n_fft)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    up_BM, down_BM = (bins_B1 - left) / (centre - left), (right - bins_B1) / (right - centre)
    return np.maximum(0, np.minimum(up_BM, down_BM))


def _mel(frequency_hz: float | NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(np.asarray(frequency_hz, np.float64) / 700))


def _fft_length(window: int, fs_hz: float, config: MfccConfig) -> int:
    """Return a power of two that holds the window and gives the narrowest mel filter two bins."""
    low_hz, high_hz = config.band(fs_hz)
    narrowest_hz = (high_hz - low_hz) / (config.n_mels + 1) / 2
    return int(2 ** np.ceil(np.log2(max(window, fs_hz / narrowest_hz))))
