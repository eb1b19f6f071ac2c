"""Mel cepstra against a plain computation, window by window."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dct

from data.mfcc import MfccConfig, deltas, mel_filters, mfcc

FS_HZ = 100.0


def plain_cepstrum(window_S: NDArray[np.float64], n_fft: int, config: MfccConfig) -> NDArray[np.float64]:
    """Kaldi's steps one after the other."""
    x = window_S - window_S.mean()
    x = x - config.preemphasis * np.concatenate([x[:1], x[:-1]])
    n = np.arange(len(x))
    x = x * (0.5 - 0.5 * np.cos(2 * np.pi * n / (len(x) - 1))) ** 0.85
    power = np.abs(np.fft.rfft(x, n_fft)) ** 2
    cepstra = dct(np.log(power @ mel_filters(n_fft, FS_HZ, config)), norm="ortho")[: config.n_cepstra]
    return np.asarray(cepstra * (1 + 11 * np.sin(np.pi * np.arange(config.n_cepstra) / 22)))


def test_a_window_in_the_middle_has_the_plain_cepstrum() -> None:
    config = MfccConfig()
    ecg_NLT = np.random.default_rng(0).normal(size=(1, 1, 500)).astype(np.float32)
    found = mfcc(ecg_NLT, FS_HZ, config)[0, 0]
    assert found.shape == (31, 13)
    start = 10 * 16 + 8 - 32  # of the window whose middle is the tenth hop's
    expected = plain_cepstrum(ecg_NLT[0, 0, start : start + 64].astype(np.float64), 128, config)
    np.testing.assert_allclose(found[10], expected, rtol=1e-3, atol=1e-3)


def test_every_mel_filter_has_weight_and_lies_in_the_range() -> None:
    config = MfccConfig(low_hz=1, high_hz=30)
    filters_BM = mel_filters(256, FS_HZ, config)
    assert (filters_BM.sum(axis=0) > 0).all()
    frequency_hz = np.arange(129) * FS_HZ / 256
    used_hz = frequency_hz[filters_BM.any(axis=1)]
    assert used_hz.min() >= 1 and used_hz.max() <= 30


def test_the_default_range_keeps_what_speech_settings_cut_off() -> None:
    """Kaldi's 20 Hz low cut leaves 20 to 50 Hz of an ECG at 100 Hz."""
    assert MfccConfig().band(100.0) == (0.5, 40.0)
    assert MfccConfig().band(50.0) == (0.5, 25.0)
    with pytest.raises(ValueError, match="high_hz <= fs_hz / 2"):
        MfccConfig(high_hz=40).band(50.0)


def test_the_delta_of_a_slope_is_the_slope_and_of_a_constant_zero() -> None:
    ramp = 3 * np.arange(10, dtype=np.float32).reshape(1, 1, 10, 1)
    np.testing.assert_allclose(deltas(ramp)[0, 0, 2:-2, 0], 3, rtol=1e-6)
    np.testing.assert_array_equal(deltas(np.ones_like(ramp)), 0)
