"""Noise is what its parameters say, in volts and in hertz."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import periodogram

from data.ecg_noise import Noise, add_gaussians, draw_noise, oscillation

N_RECORDS = 40


def silence(n_records: int = N_RECORDS) -> Noise:
    zeros, ones = np.zeros(n_records), np.ones(n_records)
    return Noise(
        respiration_hz=0.25 * ones,
        wander_mv=zeros,
        muscle_mv=zeros,
        tremor_mv=zeros,
        tremor_hz=6.0 * ones,
        motion_mv=zeros,
        motion_per_s=zeros,
        mains_mv=zeros,
        mains_hz=50.0 * ones,
    )


def noise_mv(noise: Noise, fs_hz: float = 500.0) -> np.ndarray:
    return draw_noise(np.random.default_rng(0), noise, 2, int(20 * fs_hz), fs_hz)


def share_of_power(signal_NLT: np.ndarray, low_hz: float, high_hz: float, fs_hz: float = 500.0) -> float:
    hz, power = periodogram(signal_NLT, fs_hz)
    return float(power[..., (hz >= low_hz) & (hz <= high_hz)].sum() / power.sum())


def test_no_noise_is_silence() -> None:
    assert not noise_mv(silence()).any()


def test_muscle_noise_has_the_asked_root_mean_square_and_leans_to_high_frequencies() -> None:
    signal_NLT = noise_mv(replace(silence(), muscle_mv=np.full(N_RECORDS, 0.02)))
    assert signal_NLT.std() == pytest.approx(0.02, rel=0.01)
    assert share_of_power(signal_NLT, 125, 250) > 0.6


def test_mains_noise_stands_at_the_mains_frequency() -> None:
    signal_NLT = noise_mv(replace(silence(), mains_mv=np.full(N_RECORDS, 0.02)))
    assert share_of_power(signal_NLT, 49.5, 50.5) > 0.98
    assert signal_NLT.std() == pytest.approx(0.02, rel=0.25)


def test_mains_noise_is_left_out_where_sampling_cannot_carry_it() -> None:
    hum = replace(silence(), mains_mv=np.full(N_RECORDS, 0.02))
    assert not noise_mv(hum, fs_hz=100.0).any()


def test_wander_is_slow_and_tremor_lies_between_4_and_20_hz() -> None:
    wander_NLT = noise_mv(replace(silence(), wander_mv=np.full(N_RECORDS, 0.1)))
    tremor_NLT = noise_mv(replace(silence(), tremor_mv=np.full(N_RECORDS, 0.1)))
    assert share_of_power(wander_NLT, 0.0, 0.5) > 0.97
    assert share_of_power(tremor_NLT, 4.0, 20.0) > 0.97


def test_movement_comes_as_often_as_asked() -> None:
    still = replace(silence(), motion_mv=np.ones(N_RECORDS))
    moving = replace(still, motion_per_s=np.full(N_RECORDS, 0.02))
    share_moved = np.any(noise_mv(moving) != 0, axis=(1, 2)).mean()
    assert not noise_mv(still).any()
    assert share_moved == pytest.approx(1 - np.exp(-0.02 * 20), abs=0.2)


def test_oscillation_keeps_its_frequency_and_a_height_of_about_one() -> None:
    time_T = np.arange(10_000) / 500.0
    wave_NT = oscillation(np.random.default_rng(0), np.full(N_RECORDS, 6.0), time_T)
    hz, power = periodogram(wave_NT, 500.0)
    assert hz[power.mean(axis=0).argmax()] == pytest.approx(6.0, abs=0.6)
    assert wave_NT.std() * np.sqrt(2) == pytest.approx(1.0, abs=0.2)


def test_gaussians_on_their_support_equal_gaussians_everywhere() -> None:
    rng = np.random.default_rng(0)
    row_E, centre_E, gain_E = rng.integers(0, 3, 30), rng.uniform(-20, 220, 30), rng.standard_normal(30)
    rise_E, fall_E = rng.uniform(1, 9, (2, 30))
    distance_ET = np.arange(200) - centre_E[:, None]
    width_ET = np.where(distance_ET < 0, rise_E[:, None], fall_E[:, None])
    expected_RT = np.zeros((3, 200))
    np.add.at(expected_RT, row_E, gain_E[:, None] * np.exp(-0.5 * (distance_ET / width_ET) ** 2))
    actual_RT = np.zeros((3, 200), dtype=np.float32)
    add_gaussians(actual_RT, row_E, centre_E, rise_E, fall_E, gain_E)
    np.testing.assert_allclose(actual_RT, expected_RT, atol=4e-3)  # exp(-8) of the largest, ten overlapping
