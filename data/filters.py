"""Filters: frequencies are kept or taken out, forwards and backwards along time, so without phase shift."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy  # which loads `scipy.signal`, 65 MB, where it is first used: a trial whose data lie in memory never does
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data.dataset import Signal
from data.operation import Array, Operation

FIR_SECONDS = 0.3  # HuBERT-ECG's (and biosppy's) usual length of a FIR filter


class Bandpass(Operation):
    """Keep frequencies between two bounds: Butterworth, forwards and backwards, so without phase shift."""

    low_hz: float = Field(gt=0, description="lower -6 dB frequency", json_schema_extra={"unit": "Hz"})
    high_hz: float = Field(gt=0, description="upper -6 dB frequency", json_schema_extra={"unit": "Hz"})
    order: int = Field(3, ge=1, le=8, description="order of the Butterworth filter in each direction")

    @model_validator(mode="after")
    def _check_bounds(self) -> Bandpass:
        _check_order("bandpass", self.low_hz, self.high_hz)
        return self

    def output_signal(self, signal: Signal) -> Signal:
        _check_below_nyquist("bandpass", "high_hz", self.high_hz, signal)
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        band_hz = (self.low_hz, self.high_hz)
        sections = scipy.signal.butter(self.order, band_hz, "bandpass", output="sos", fs=signal.fs_hz)
        return filter_twice(ecg_NLT, np.asarray(sections))


class FirBandpass(Operation):
    """Keep frequencies between two bounds: a FIR filter (windowed sinc), forwards and backwards.

    A low_hz whose period is longer than the filter is nominal only: the filter can't tell it from 0 Hz.
    """

    low_hz: float = Field(gt=0, description="lower -12 dB frequency", json_schema_extra={"unit": "Hz"})
    high_hz: float = Field(gt=0, description="upper -12 dB frequency", json_schema_extra={"unit": "Hz"})
    order: int | None = Field(
        None, ge=2, le=10_000, multiple_of=2, description="coefficients less one, even; null: 0.3 s of timesteps"
    )
    window: Literal["hamming", "hann", "blackman"] = Field("hamming", description="what the sinc is tapered by")

    @model_validator(mode="after")
    def _check_bounds(self) -> FirBandpass:
        _check_order("fir_bandpass", self.low_hz, self.high_hz)
        return self

    def output_signal(self, signal: Signal) -> Signal:
        _check_below_nyquist("fir_bandpass", "high_hz", self.high_hz, signal)
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        taps = self.taps(signal.fs_hz)
        n_padded = min(3 * len(taps), ecg_NLT.shape[-1] - 1)  # scipy's own, or less for a short record
        return np.asarray(scipy.signal.filtfilt(taps, 1.0, ecg_NLT, axis=-1, padlen=n_padded), np.float32)

    def taps(self, fs_hz: float) -> NDArray[np.float64]:
        """Return the coefficients of one pass."""
        order = max(2, 2 * int(FIR_SECONDS * fs_hz / 2)) if self.order is None else self.order
        band_hz = (self.low_hz, self.high_hz)
        return np.asarray(scipy.signal.firwin(order + 1, band_hz, window=self.window, pass_zero=False, fs=fs_hz))


class Notch(Operation):
    """Take out one frequency, such as the mains', forwards and backwards."""

    freq_hz: float = Field(gt=0, description="frequency taken out", json_schema_extra={"unit": "Hz"})
    q: float = Field(30.0, gt=0, description="quality: freq_hz over the -3 dB width of one pass")

    def output_signal(self, signal: Signal) -> Signal:
        _check_below_nyquist("notch", "freq_hz", self.freq_hz, signal)
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        numerator, denominator = scipy.signal.iirnotch(self.freq_hz, self.q, fs=signal.fs_hz)
        return filter_twice(ecg_NLT, np.asarray(scipy.signal.tf2sos(numerator, denominator)))


def filter_twice(ecg_NLT: Array, sections: NDArray[np.float64]) -> Array:
    """Filter forwards and backwards along time, in float64. A short record is extended at its ends by less."""
    n_zeros = min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    usual = 3 * (2 * len(sections) + 1 - n_zeros)  # scipy's own
    n_padded = min(usual, ecg_NLT.shape[-1] - 1)
    return np.asarray(scipy.signal.sosfiltfilt(sections, ecg_NLT, axis=-1, padlen=n_padded), np.float32)


def _check_order(step: str, low_hz: float, high_hz: float) -> None:
    if low_hz >= high_hz:
        raise ValueError(f"{step}: low_hz < high_hz must hold, got {low_hz} and {high_hz}")


def _check_below_nyquist(step: str, key: str, value_hz: float, signal: Signal) -> None:
    if value_hz >= signal.fs_hz / 2:
        raise ValueError(f"{step}: {key} must be below half the sampling rate of {signal.fs_hz:g} Hz, got {value_hz:g}")
