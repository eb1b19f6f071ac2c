"""The generator draws what its parameters say: rates, waves, leads, volts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import find_peaks, periodogram

from data.ecg_generator import (
    LEADS_12,
    SINUS_BEAT,
    VENTRICULAR_BEAT,
    Beats,
    Physiology,
    draw_beats,
    draw_ecg,
    shape_waves,
)
from data.ecg_population import PatientDraw, draw_healthy, draw_people
from tests.data.test_ecg_noise import silence

N_RECORDS = 60
FS_HZ = 250.0
DURATION_S = 10.0
LEAD = {name: index for index, name in enumerate(LEADS_12)}


def hearts(seed: int = 0, **changes: object) -> Physiology:
    """Healthy hearts of N_RECORDS patients, with some fields set to one value for all."""
    draw = PatientDraw(np.random.default_rng(seed), np.arange(N_RECORDS), N_RECORDS)
    healthy = replace(draw_healthy(draw, draw_people(draw)), atrial_ectopy=np.zeros(N_RECORDS))
    return replace(healthy, **{name: np.full(N_RECORDS, value) for name, value in changes.items()})


def beats_of(physiology: Physiology, duration_s: float = DURATION_S) -> Beats:
    return draw_beats(np.random.default_rng(1), physiology, duration_s)


def clean_ecg(physiology: Physiology, beats: Beats) -> np.ndarray:
    """Twelve leads without noise."""
    return draw_ecg(
        np.random.default_rng(2),
        physiology,
        silence(N_RECORDS),
        beats,
        fs_hz=FS_HZ,
        n_timesteps=int(FS_HZ * DURATION_S),
        n_leads=12,
    )


def around_r(ecg_NT: np.ndarray, beats: Beats, before_s: float, after_s: float) -> np.ndarray:
    """Average each record's signal over its beats, from `before_s` before R to `after_s` after. Shape (N, window)."""
    window = np.arange(round(-before_s * FS_HZ), round(after_s * FS_HZ))
    averages = []
    for signal_T, time_B in zip(ecg_NT, beats.r_time_s_NB, strict=True):
        whole_B = time_B[(time_B > before_s) & (time_B < DURATION_S - after_s)]
        averages.append(signal_T[np.rint(whole_B * FS_HZ).astype(int)[:, None] + window].mean(axis=0))
    return np.stack(averages)


def find_r(signal_T: np.ndarray) -> np.ndarray:
    return find_peaks(signal_T, height=0.6 * signal_T.max(), distance=int(0.25 * FS_HZ))[0] / FS_HZ


def test_limb_leads_obey_einthoven_and_goldberger_with_noise_and_all() -> None:
    physiology = hearts()
    noise = replace(silence(N_RECORDS), muscle_mv=np.full(N_RECORDS, 0.1), wander_mv=np.full(N_RECORDS, 0.3))
    ecg_NLT = draw_ecg(
        np.random.default_rng(2), physiology, noise, beats_of(physiology), fs_hz=100.0, n_timesteps=1000, n_leads=12
    )
    one, two, three, a_vr, a_vl, a_vf = (ecg_NLT[:, index] for index in range(6))
    assert ecg_NLT.shape == (N_RECORDS, 12, 1000)
    assert ecg_NLT.dtype == np.float32
    for found, expected in [
        (one + three, two),
        (a_vr, -(one + two) / 2),
        (a_vl, (one - three) / 2),
        (a_vf, (two + three) / 2),
        (a_vr + a_vl + a_vf, 0 * one),
    ]:
        np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("rate_bpm", [48.0, 70.0, 125.0])
def test_r_peaks_come_at_the_asked_heart_rate(rate_bpm: float) -> None:
    physiology = hearts(rate_bpm=rate_bpm, axis_deg=0.0, respiratory_variability=0.02)
    beats = beats_of(physiology)
    ecg_NLT = clean_ecg(physiology, beats)
    found_N = np.array([60.0 / np.diff(find_r(signal_T)).mean() for signal_T in ecg_NLT[:, LEAD["II"]]])
    assert np.median(found_N) == pytest.approx(rate_bpm, rel=0.02)
    np.testing.assert_allclose(found_N, 60.0 / beats.mean_rr_s(DURATION_S), rtol=0.05)


def test_r_peaks_stand_where_the_beats_say() -> None:
    physiology = hearts(axis_deg=0.0)
    beats = beats_of(physiology)
    for signal_T, time_B in zip(clean_ecg(physiology, beats)[:, LEAD["II"]], beats.r_time_s_NB, strict=True):
        expected = time_B[(time_B > 0.05) & (time_B < DURATION_S - 0.05)]
        found = find_r(signal_T)
        found = found[(found > 0.05) & (found < DURATION_S - 0.05)]
        np.testing.assert_allclose(found, expected, atol=0.012)


def test_fibrillation_has_no_p_wave_and_irregular_rr() -> None:
    sinus = hearts(p_gain=1.0, pr_s=0.16, rate_bpm=70.0)
    fibrillating = replace(sinus, fibrillating=np.ones(N_RECORDS, dtype=bool), fibrillatory_mv=np.full(N_RECORDS, 0.03))
    height, variation = {}, {}
    for name, physiology in {"sinus": sinus, "af": fibrillating}.items():
        beats = beats_of(physiology)
        before_NT = around_r(clean_ecg(physiology, beats)[:, LEAD["II"]], beats, 0.24, -0.06)
        height[name] = np.median(before_NT.max(axis=1) - before_NT[:, 0])
        variation[name] = np.median(beats.rr_s_NB.std(axis=1) / beats.rr_s_NB.mean(axis=1))
    assert height["sinus"] > 0.07
    assert height["af"] < 0.5 * height["sinus"]
    assert variation["af"] == pytest.approx(0.2, abs=0.03)
    assert variation["af"] > 3 * variation["sinus"]


def test_fibrillatory_waves_fill_4_to_9_hz_most_in_v1() -> None:
    physiology = hearts(fibrillating=True, fibrillatory_mv=0.1, voltage=0.0, t_gain=0.0, p_gain=0.0)
    physiology = replace(physiology, st_dipole_N3=np.zeros((N_RECORDS, 3)))
    ecg_NLT = clean_ecg(physiology, beats_of(physiology))
    hz, power_NLT = periodogram(ecg_NLT, FS_HZ)
    assert 4.0 < hz[power_NLT[:, LEAD["V1"]].mean(axis=0).argmax()] < 9.0
    rms_L = ecg_NLT.std(axis=(0, 2))
    assert rms_L[LEAD["V1"]] > rms_L[LEAD["II"]] > rms_L[LEAD["I"]]


def test_sinus_rr_oscillate_with_respiration_and_mayer_waves() -> None:
    physiology = hearts(
        rate_bpm=90.0, respiration_hz=0.3, respiratory_variability=0.05, mayer_variability=0.04, jitter=0.002
    )
    rr_NB = beats_of(physiology, 120.0).rr_s_NB[:, :150]
    hz, power_NF = periodogram(rr_NB, fs=90.0 / 60.0)
    power_F = power_NF.mean(axis=0)
    peaks = hz[find_peaks(power_F, height=0.2 * power_F.max())[0]]
    np.testing.assert_allclose(peaks, [0.1, 0.3], atol=0.02)


def test_ventricular_beats_are_early_wide_without_p_and_followed_by_a_full_pause() -> None:
    physiology = hearts(rate_bpm=65.0, ventricular_ectopy=0.15, coupling=0.6, fusion=1.0)
    physiology = replace(physiology, respiratory_variability=np.zeros(N_RECORDS), mayer_variability=np.zeros(N_RECORDS))
    beats = beats_of(replace(physiology, jitter=np.full(N_RECORDS, 1e-6)))
    row_E, beat_E = np.nonzero(beats.origin_NB[:, 1:-1] == VENTRICULAR_BEAT)
    early_E, pause_E = beats.rr_s_NB[row_E, beat_E + 1], beats.rr_s_NB[row_E, beat_E + 2]
    inside_E = beat_E > 0
    np.testing.assert_allclose(early_E[inside_E], 0.6 * 60 / 65, rtol=1e-4)
    np.testing.assert_allclose((early_E + pause_E)[inside_E], 2 * 60 / 65, rtol=1e-4)
    assert np.all(beats.origin_NB[row_E, beat_E + 2] == SINUS_BEAT)


def test_the_t_wave_comes_sooner_after_r_at_faster_rates_as_the_cube_root() -> None:
    delay = {}
    for rate_bpm in (50.0, 100.0):
        physiology = hearts(
            rate_bpm=rate_bpm, qtc_s=0.41, t_gain=1.0, axis_deg=0.0, rotation_deg=0.0, respiratory_variability=0.0
        )
        beats = beats_of(physiology)
        after_NT = around_r(clean_ecg(physiology, beats)[:, LEAD["II"]], beats, -0.15, 0.42)
        delay[rate_bpm] = 0.15 + np.median(after_NT.argmax(axis=1)) / FS_HZ
    assert delay[50.0] / delay[100.0] == pytest.approx(2 ** (1 / 3), rel=0.03)


def test_healthy_leads_look_as_a_cardiologist_expects() -> None:
    physiology = hearts(axis_deg=0.0, rotation_deg=0.0, rate_bpm=65.0)
    beats = beats_of(physiology)
    ecg_NLT = clean_ecg(physiology, beats)
    qrs_L12 = np.stack([np.median(around_r(ecg_NLT[:, lead], beats, 0.05, 0.07), axis=0) for lead in range(12)])
    t_wave_L12 = np.stack([np.median(around_r(ecg_NLT[:, lead], beats, -0.2, 0.35), axis=0) for lead in range(12)])
    r_mv, s_mv = qrs_L12.max(axis=1), -qrs_L12.min(axis=1)
    r_to_s = r_mv[6:] / s_mv[6:]
    assert s_mv[LEAD["aVR"]] > 3 * r_mv[LEAD["aVR"]]
    assert r_to_s[0] < 0.6 < 1.0 < r_to_s[4]
    assert np.all(np.diff(r_to_s[:5]) > 0), "R/S grows from V1 to V5"
    assert np.all(r_mv[[LEAD["I"], LEAD["II"], LEAD["V4"], LEAD["V5"], LEAD["V6"]]] > 0.3)
    assert np.all(np.maximum(r_mv, s_mv) < 3.0)
    assert np.all(t_wave_L12[[LEAD[name] for name in ("I", "II", "V2", "V3", "V4", "V5", "V6")]].max(axis=1) > 0.05)
    assert t_wave_L12[LEAD["aVR"]].min() < -0.1


def test_the_power_of_a_clean_ecg_lies_below_40_hz() -> None:
    physiology = hearts()
    hz, power_NLT = periodogram(clean_ecg(physiology, beats_of(physiology)), FS_HZ)
    share = power_NLT[..., (hz > 0.3) & (hz < 40)].sum() / power_NLT.sum()
    assert share > 0.95
    assert 1.0 < np.average(hz, weights=power_NLT.sum(axis=(0, 1))) < 15.0


def test_the_middle_beat_stands_in_the_middle_with_the_asked_origin() -> None:
    centre = (np.arange(N_RECORDS) % 3).astype(np.int8)
    beats = draw_beats(np.random.default_rng(0), hearts(), 5 / 3, centre)
    nearest_N = np.argmin(np.abs(beats.r_time_s_NB - 5 / 6), axis=1)
    rows = np.arange(N_RECORDS)
    np.testing.assert_allclose(beats.r_time_s_NB[rows, nearest_N], 5 / 6, atol=1e-9)
    np.testing.assert_array_equal(beats.origin_NB[rows, nearest_N], centre)


def test_a_right_block_puts_a_late_r_into_v1_and_a_left_block_takes_it_to_v6() -> None:
    time = {}
    for side in ("right_block", "left_block"):
        waves = shape_waves(hearts(axis_deg=0.0, rotation_deg=0.0, **{side: 1.0}))
        time[side] = np.median(waves.dipole_NW3[:, 5], axis=0)
    assert time["right_block"][0] < 0 < time["left_block"][0]
    assert time["right_block"][2] < 0 < time["left_block"][2]


def test_a_record_shorter_than_a_beat_has_the_rr_that_spans_it() -> None:
    beats = Beats(
        r_time_s_NB=np.array([[-0.5, 1.3, 2.5]]),
        rr_s_NB=np.array([[0.9, 1.8, 1.2]]),
        origin_NB=np.zeros((1, 3), dtype=np.int8),
        gain_NB=np.ones((1, 3)),
    )
    assert beats.mean_rr_s(1.0) == pytest.approx([1.8])
    assert beats.mean_rr_s(2.0) == pytest.approx([1.8])
    assert beats.mean_rr_s(3.0) == pytest.approx([1.5])
