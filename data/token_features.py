"""Features of tokens, which k-means turns into the pseudo-labels of HuBERT-ECG's first pretraining.

Leads arrive at the model's sampling rate, each resampled alone (`data.resampling`): joined first and decimated then,
they would ring across their borders.

N: records, L: leads, T: timesteps, F: tokens, S: timesteps of a frame, K: windows of a lead, D: features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data.mfcc import MfccConfig, deltas, mfcc
from data.tokens import TokenGrid

FeatureType = Literal["time_freq", "mfcc", "mixed"]
SMALLEST_DEVIATION = 1e-8  # mV; a flatter frame has no shape: crest factor, skewness and kurtosis are 0


class FeatureConfig(BaseModel):
    """Which features of a token are computed, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_type: FeatureType = Field(
        "mfcc",
        description="time_freq: 16 statistics of the frame and its periodogram; mfcc: cepstra with their first and "
        "second differences, 39 by default; mixed: the 16 and the cepstra, 29 by default",
    )
    mfcc: MfccConfig = Field(default_factory=MfccConfig, description="how cepstra are computed")

    @property
    def n_features(self) -> int:
        n_cepstra = self.mfcc.n_cepstra
        return {"time_freq": 16, "mfcc": 3 * n_cepstra, "mixed": 16 + n_cepstra}[self.feature_type]


class TokenFeatures(NamedTuple):
    """Features of the tokens of N records, and which tokens are signal rather than padding."""

    features_NFD: NDArray[np.float32]
    valid_NF: NDArray[np.bool_]


Extract = Callable[[NDArray[np.float32], NDArray[np.int32]], TokenFeatures]
"""(ecg_NLT, length_N) -> the records' features. Pickled to Ray's workers: a `functools.partial` or a frozen object."""


def extract_features(
    ecg_NLT: NDArray[np.float32], length_N: NDArray[np.int32], grid: TokenGrid, config: FeatureConfig
) -> TokenFeatures:
    """Compute the features of whole records, all at once.

    Raises:
        ValueError: the mel filters do not fit the sampling rate.
    """
    parts = []
    if config.feature_type in ("time_freq", "mixed"):
        parts.append(time_freq(np.asarray(grid.frames(ecg_NLT), np.float32)))
    if config.feature_type in ("mfcc", "mixed"):
        parts.append(_token_cepstra(ecg_NLT, grid, config))
    return TokenFeatures(np.concatenate(parts, axis=2), grid.valid_NF(length_N))


def time_freq(frames_NFS: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 16 statistics a frame, features_NF16.

    Minimum, maximum, mean, root mean square, variance, standard deviation, power, peak (of absolute values), peak to
    peak, crest factor, skewness, kurtosis (0 for a normal distribution); maximum, sum, mean and variance of the
    periodogram |FFT(x)|^2 / S over all S frequencies.
    """
    low, high, mean = frames_NFS.min(axis=2), frames_NFS.max(axis=2), frames_NFS.mean(axis=2)
    centred_NFS = frames_NFS - mean[:, :, None]
    square_NFS = centred_NFS * centred_NFS
    variance = square_NFS.mean(axis=2)
    deviation = np.sqrt(variance)
    power = variance + mean * mean
    rms, peak = np.sqrt(power), np.maximum(np.abs(low), np.abs(high))
    third, fourth = (square_NFS * centred_NFS).mean(axis=2), (square_NFS * square_NFS).mean(axis=2)
    has_shape = deviation > SMALLEST_DEVIATION
    scale = np.where(has_shape, deviation, 1)
    shape = [
        np.where(rms > SMALLEST_DEVIATION, peak / np.where(rms > SMALLEST_DEVIATION, rms, 1), 0),
        np.where(has_shape, third / scale**3, 0),
        np.where(has_shape, fourth / scale**4 - 3, 0),
    ]
    statistics = [low, high, mean, rms, variance, deviation, power, peak, high - low, *shape]
    return np.stack([*statistics, *_periodogram(frames_NFS)], axis=2).astype(np.float32)


def _periodogram(frames_NFS: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    n_timesteps = frames_NFS.shape[2]
    spectrum = scipy.fft.rfft(frames_NFS, axis=2)
    power_NFB = (spectrum.real**2 + spectrum.imag**2) / n_timesteps
    times_B = np.full(power_NFB.shape[2], 2, np.float32)  # a frequency and its negative
    times_B[0] = 1
    if n_timesteps % 2 == 0:
        times_B[-1] = 1
    total = power_NFB @ times_B
    mean = total / n_timesteps
    deviations_NFB = power_NFB - mean[:, :, None]
    return [power_NFB.max(axis=2), total, mean, (deviations_NFB * deviations_NFB) @ times_B / n_timesteps]


def _token_cepstra(ecg_NLT: NDArray[np.float32], grid: TokenGrid, config: FeatureConfig) -> NDArray[np.float32]:
    """Return the mean over each token's timesteps of the cepstra of the window that they lie in."""
    cepstra_NLKC = mfcc(ecg_NLT, grid.fs_hz, config.mfcc)
    if config.feature_type == "mfcc":
        first = deltas(cepstra_NLKC)
        cepstra_NLKC = np.concatenate([cepstra_NLKC, first, deltas(first)], axis=3)
    n_records, n_leads, n_windows, n_coefficients = cepstra_NLKC.shape
    return _window_shares(grid, config.mfcc) @ cepstra_NLKC.reshape(n_records, n_leads * n_windows, n_coefficients)


@lru_cache(maxsize=8)
def _window_shares(grid: TokenGrid, config: MfccConfig) -> NDArray[np.float32]:
    """Return the share of each window of each lead in each token: (F, L * K), rows sum to 1."""
    n_windows, hop = config.n_windows(grid.n_timesteps, grid.fs_hz), config.hop(grid.fs_hz)
    window_T = np.minimum(np.arange(grid.n_timesteps) // hop, n_windows - 1)
    window_LT = np.arange(grid.n_leads)[:, None] * n_windows + window_T
    window_FS = np.asarray(grid.frames(window_LT[None]))[0].astype(np.int64)
    shares = [np.bincount(window_S, minlength=grid.n_leads * n_windows) for window_S in window_FS]
    return (np.stack(shares) / grid.frame_timesteps).astype(np.float32)
