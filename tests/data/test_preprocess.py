"""Preprocessing: each step against an independent reference, and the laws that hold for all of them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from data.dataset import Signal
from data.preprocess import Statistics, Step, output_signal, preprocess, record_sums, statistics

SIGNAL = Signal(("I", "II", "aVR"), 250.0, 1000)
TIME_S = np.arange(1000) / 250
STEPS = TypeAdapter(tuple[Step, ...])


def steps(*written: object) -> tuple[Step, ...]:
    return STEPS.validate_python(written)


def noise(n_records: int, seed: int = 18) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n_records, 3, 1000)).cumsum(axis=-1).astype(np.float32) * 0.1


def sine(freq_hz: float, fs_hz: float = 250, n_timesteps: int = 1000) -> NDArray[np.float32]:
    wave = np.sin(2 * np.pi * freq_hz * np.arange(n_timesteps) / fs_hz)
    return np.broadcast_to(wave, (1, 3, n_timesteps)).astype(np.float32)


def gain(step: Step, freq_hz: float) -> float:
    """Return the amplitude that is left of a sine, by projection on its middle half, whatever the phase."""
    out = preprocess(sine(freq_hz), [step], SIGNAL)[0, 0, 250:750]
    wave = np.exp(2j * np.pi * freq_hz * TIME_S[250:750])
    return float(abs(2 * (out * wave).mean()))


@pytest.mark.parametrize(("freq_hz", "order"), [(20, 3), (40, 3), (5, 2), (80, 4)])
def test_bandpass_has_the_squared_butterworth_response(freq_hz: float, order: int) -> None:
    (step,) = steps({"bandpass": {"low_hz": 5, "high_hz": 40, "order": order}})
    # Closed form of the bilinear Butterworth band-pass: twice through it squares |H|.
    warped = [math.tan(math.pi * each / 250) for each in (5, 40, freq_hz)]
    ratio = (warped[2] ** 2 - warped[0] * warped[1]) / (warped[2] * (warped[1] - warped[0]))
    assert gain(step, freq_hz) == pytest.approx(1 / (1 + ratio ** (2 * order)), abs=0.01)


def test_bandpass_shifts_nothing_in_time() -> None:
    (step,) = steps({"bandpass": {"low_hz": 0.5, "high_hz": 40}})
    bump = np.exp(-((TIME_S - 2) ** 2) / (2 * 0.03**2)).astype(np.float32).reshape(1, 1, -1)
    out = preprocess(bump, [step], Signal(("I",), 250.0, 1000))
    assert out.argmax() == bump.argmax() == 500
    assert_allclose(out[0, 0, 400:601], out[0, 0, 400:601][::-1], atol=2e-3)  # the ends' transients differ


def test_notch_takes_out_its_frequency_and_leaves_the_others() -> None:
    (step,) = steps({"notch": {"freq_hz": 50, "q": 10}})
    assert gain(step, 50) < 0.03
    assert gain(step, 20) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("fs_hz", "n_timesteps"), [(100, 400), (500, 2000), (360, 1440), (128, 512)])
def test_resample_gives_the_samples_of_the_same_sine(fs_hz: float, n_timesteps: int) -> None:
    written = steps({"resample": {"fs_hz": fs_hz}})
    out = preprocess(sine(7), written, SIGNAL)
    assert output_signal(written, SIGNAL) == Signal(SIGNAL.lead_names, fs_hz, n_timesteps)
    assert out.shape == (1, 3, n_timesteps)
    middle = slice(n_timesteps // 8, -n_timesteps // 8)
    assert_allclose(out[..., middle], sine(7, fs_hz, n_timesteps)[..., middle], atol=0.01)


def test_resample_leaves_a_baseline_flat_to_its_ends() -> None:
    out = preprocess(np.full((1, 3, 1000), 2.5, np.float32), steps({"resample": {"fs_hz": 100}}), SIGNAL)
    assert_allclose(out, 2.5, atol=1e-3)


def test_leads_are_taken_in_the_order_given_in_any_case() -> None:
    written = steps({"leads": {"names": ["AVR", "i"]}})
    ecg_NLT = noise(4)
    assert_array_equal(preprocess(ecg_NLT, written, SIGNAL), ecg_NLT[:, [2, 0]])
    assert output_signal(written, SIGNAL).lead_names == ("aVR", "I")


def test_zscore_agrees_with_scipy_over_leads_and_over_records() -> None:
    ecg_NLT = noise(5)
    by_lead = preprocess(ecg_NLT, steps({"zscore": {"per": "lead"}}), SIGNAL)
    assert_allclose(by_lead, stats.zscore(ecg_NLT.astype(np.float64), axis=-1), atol=1e-5)
    by_record = preprocess(ecg_NLT, steps({"zscore": {"per": "record"}}), SIGNAL)
    assert_allclose(
        by_record, stats.zscore(ecg_NLT.astype(np.float64).reshape(5, -1), axis=-1).reshape(5, 3, -1), atol=1e-5
    )


@pytest.mark.parametrize("per", ["lead", "record"])
@pytest.mark.parametrize("level_mv", [0.0, 0.1, -3.7, 1e4])
def test_what_is_constant_becomes_zero(per: str, level_mv: float) -> None:
    flat = np.full((2, 3, 1000), level_mv, np.float32)
    assert_array_equal(preprocess(flat, steps({"zscore": {"per": per}}), SIGNAL), 0)


def test_zscore_by_segment_only_sets_the_models_flag() -> None:
    written = steps({"zscore": {"per": "segment"}})
    assert output_signal(written, SIGNAL).standardise_windows
    assert not output_signal((), SIGNAL).standardise_windows
    assert_array_equal(preprocess(noise(2), written, SIGNAL), noise(2))


def test_global_statistics_are_numpys_over_everything() -> None:
    ecg_NLT = noise(50)
    found = statistics(record_sums(ecg_NLT), ecg_NLT.size)
    assert found.mean == pytest.approx(ecg_NLT.mean(dtype=np.float64), rel=1e-9)
    assert found.sd == pytest.approx(ecg_NLT.std(dtype=np.float64), rel=1e-9)
    found.standardise(ecg_NLT, np.full(len(ecg_NLT), ecg_NLT.shape[2], np.int32))
    assert ecg_NLT.mean() == pytest.approx(0, abs=1e-5)
    assert ecg_NLT.std() == pytest.approx(1, rel=1e-5)


def test_global_statistics_of_constant_data_make_zeros() -> None:
    flat = np.full((2, 3, 10), 0.1, np.float32)
    Statistics(mean=float(flat[0, 0, 0]), sd=0.0).standardise(flat, np.full(len(flat), flat.shape[2], np.int32))
    assert_array_equal(flat, 0)


@settings(max_examples=25, deadline=None)
@given(cut=st.integers(0, 90), per=st.sampled_from(["lead", "record"]), seed=st.integers(0, 9))
def test_results_do_not_depend_on_how_records_are_grouped(cut: int, per: str, seed: int) -> None:
    written = steps(
        {"bandpass": {"low_hz": 0.5, "high_hz": 40}},
        {"notch": {"freq_hz": 50}},
        {"resample": {"fs_hz": 100}},
        {"leads": {"names": ["II", "I"]}},
        {"zscore": {"per": per}},
    )
    ecg_NLT = noise(90, seed)
    parts = [preprocess(part, written, SIGNAL) for part in (ecg_NLT[:cut], ecg_NLT[cut:])]
    assert_array_equal(np.concatenate(parts), preprocess(ecg_NLT, written, SIGNAL))
    assert output_signal(written, SIGNAL).n_timesteps == 400


@given(order=st.permutations(range(12)))
def test_global_statistics_do_not_depend_on_the_order_of_records(order: list[int]) -> None:
    sums = record_sums(noise(12))
    assert statistics(sums[order], 3000 * len(sums)) == statistics(sums, 3000 * len(sums))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([{"bandpas": {"low_hz": 1, "high_hz": 2}}], "bandpas"),
        ([{"bandpass": {"low_hz": 1, "high_hz": 2, "ordr": 3}}], "ordr"),
        ([{"bandpass": {"low_hz": 40, "high_hz": 0.5}}], r"low_hz < high_hz must hold, got 40.0 and 0.5"),
        ([{"bandpass": {"low_hz": -1, "high_hz": 2}}], "greater than 0"),
        ([{"zscore": {"per": "patient"}}], "'lead', 'record', 'segment' or 'global'"),
        ([{"notch": {"freq_hz": 50}, "zscore": {"per": "lead"}}], "exactly one name, got notch, zscore"),
        ([{}], "exactly one name, got none"),
    ],
)
def test_unknown_steps_and_keys_and_bad_values_are_refused(written: list[object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        STEPS.validate_python(written)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            [{"bandpass": {"low_hz": 1, "high_hz": 125}}],
            "high_hz must be below half the sampling rate of 250 Hz, got 125",
        ),
        ([{"notch": {"freq_hz": 200}}], "freq_hz must be below half"),
        (
            [{"resample": {"fs_hz": 100}}, {"bandpass": {"low_hz": 1, "high_hz": 60}}],
            "half the sampling rate of 100 Hz",
        ),
        ([{"resample": {"fs_hz": 99.99991}}], "must be a ratio"),
        ([{"leads": {"names": ["V1"]}}], "leads: 'V1' is not among I, II, aVR"),
        ([{"leads": {"names": ["aVRR"]}}], "did you mean 'aVR'"),
        ([{"leads": {"names": ["I", "i"]}}], "each lead may be named once"),
        ([{"zscore": {"per": "lead"}}, {"notch": {"freq_hz": 50}}], "zscore must be the last preprocessing step"),
    ],
)
def test_steps_that_do_not_fit_the_signal_are_refused(written: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        output_signal(steps(*written), SIGNAL)


def test_short_records_are_filtered_too_and_padding_stays_zero() -> None:
    written = steps({"bandpass": {"low_hz": 1, "high_hz": 40}}, {"zscore": {"per": "lead"}})
    ecg_NLT = noise(4)
    length_N = np.array([1000, 5, 400, 1000], np.int32)
    for ecg_LT, length in zip(ecg_NLT, length_N, strict=True):
        ecg_LT[:, length:] = 0
    done_NLT = preprocess(ecg_NLT, written, SIGNAL, length_N)
    for row, length in enumerate(length_N):
        alone = preprocess(ecg_NLT[[row], :, :length], written, replace(SIGNAL, n_timesteps=int(length)))
        assert_array_equal(done_NLT[row, :, :length], alone[0])
        assert not done_NLT[row, :, length:].any()


def test_steps_are_written_back_as_they_were_read() -> None:
    written = [{"notch": {"freq_hz": 50.0, "q": 30.0}}, {"zscore": {"per": "lead"}}]
    assert STEPS.dump_python(steps(*written), mode="json") == written
