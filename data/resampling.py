"""Changing the sampling rate of records: polyphase, linear, or by dropping timesteps after a low-pass filter."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np
import scipy  # which loads `scipy.signal`, 65 MB, where it is first used: a trial whose data lie in memory never does
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import Signal
from data.filters import filter_twice
from data.operation import Array, Operation

Method = Literal["polyphase", "linear"]
Floats = TypeVar("Floats", bound=np.floating[Any])

MAX_TERM = 1000  # of the ratio of two rates: a polyphase filter is 20 times as long


class Resample(Operation):
    """Change the sampling rate."""

    fs_hz: float = Field(gt=0, description="sampling rate afterwards", json_schema_extra={"unit": "Hz"})
    method: Method = Field(
        "polyphase",
        description="polyphase: with a zero-phase low-pass filter; linear: a straight line between timesteps from the "
        "first to the last, as ECG-FM does, which aliases where the rate falls",
    )

    def output_signal(self, signal: Signal) -> Signal:
        n_timesteps = resampled_length(signal.n_timesteps, signal.fs_hz, self.fs_hz, self.method)
        return replace(signal, fs_hz=self.fs_hz, n_timesteps=n_timesteps)

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        return resample(ecg_NLT, signal.fs_hz, self.fs_hz, self.method)


class Decimate(Operation):
    """Keep every factor-th timestep of each lead, after a Chebyshev low-pass (order 8, 80 % of the new band).

    `scipy.signal.decimate`, zero phase. `resample` keeps frequencies nearer to half the new rate.
    """

    factor: int = Field(ge=2, le=13, description="how many timesteps become one")

    def output_signal(self, signal: Signal) -> Signal:
        n_timesteps = math.ceil(signal.n_timesteps / self.factor)
        return replace(signal, fs_hz=signal.fs_hz / self.factor, n_timesteps=n_timesteps)

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        sections = scipy.signal.cheby1(8, 0.05, 0.8 / self.factor, output="sos")
        return filter_twice(ecg_NLT, np.asarray(sections))[..., :: self.factor]


def resample(ecg: NDArray[Floats], from_hz: float, to_hz: float, method: Method = "polyphase") -> NDArray[Floats]:
    """Change the sampling rate along the last axis; returns the input itself where the rates are equal.

    Raises:
        ValueError: the rates are not in a ratio of numbers up to 1000.
    """
    ratio = rate_ratio(from_hz, to_hz)
    if ratio == 1:
        return ecg
    if method == "linear":
        return _interpolate(ecg, resampled_length(ecg.shape[-1], from_hz, to_hz, method))
    # Padding with the line between a record's ends: with zeros, a baseline offset rings at both.
    resampled = scipy.signal.resample_poly(ecg, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
    return np.asarray(resampled, ecg.dtype)


def resampled_length(n_timesteps: int, from_hz: float, to_hz: float, method: Method = "polyphase") -> int:
    """Return how many timesteps `resample` makes of `n_timesteps`.

    Raises:
        ValueError: as `resample`.
    """
    exact = n_timesteps * rate_ratio(from_hz, to_hz)
    return max(1, math.floor(exact)) if method == "linear" else math.ceil(exact)


def rate_ratio(from_hz: float, to_hz: float) -> Fraction:
    """Return to_hz / from_hz.

    Raises:
        ValueError: it is no ratio of numbers up to 1000, or `from_hz` is no rate.
    """
    if not (math.isfinite(from_hz) and from_hz > 0):
        raise ValueError(f"the sampling rate must be a positive number of Hz, got {from_hz:g}")
    ratio = (Fraction(to_hz) / Fraction(from_hz)).limit_denominator(MAX_TERM)
    if not math.isclose(float(ratio) * from_hz, to_hz, rel_tol=1e-6):
        raise ValueError(
            f"{from_hz:g} Hz can't be resampled to {to_hz:g} Hz, as they must be in a ratio of numbers up to {MAX_TERM}"
        )
    return ratio


def _interpolate(ecg: NDArray[Floats], n_timesteps: int) -> NDArray[Floats]:
    """Draw straight lines between timesteps, the first and the last of which stay."""
    position_T = np.linspace(0, ecg.shape[-1] - 1, n_timesteps)
    left_T = np.minimum(position_T.astype(np.intp), max(0, ecg.shape[-1] - 2))
    right_T = np.minimum(left_T + 1, ecg.shape[-1] - 1)
    share_T = position_T - left_T
    return np.asarray(ecg[..., left_T] * (1 - share_T) + ecg[..., right_T] * share_T, ecg.dtype)
