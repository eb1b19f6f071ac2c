"""Preprocessing: each step against an independent reference, and the laws that hold for all of them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy import signal as scipy_signal
from scipy import stats
from scipy.interpolate import interp1d
from sklearn.preprocessing import MinMaxScaler

from data.dataset import Signal
from data.leads import LEADS_12, derive_limb_leads
from data.preprocessing import Step, Steps, output_lengths, output_signal, preprocess
from data.scaling import Statistics, record_sums, statistics
from data.wfdb_record import read_wfdb

SIGNAL = Signal(("I", "II", "aVR"), 250.0, 1000)
TIME_S = np.arange(1000) / 250
STEPS = TypeAdapter(Steps)


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


@pytest.mark.parametrize(("freq_hz", "order"), [(5, None), (20, None), (40, 100), (80, 30)])
def test_fir_bandpass_has_the_squared_response_of_its_coefficients(freq_hz: float, order: int | None) -> None:
    (step,) = steps({"fir_bandpass": {"low_hz": 5, "high_hz": 40, "order": order}})
    n_taps = 75 if order is None else order + 1  # 0.3 s of 250 Hz
    taps = scipy_signal.firwin(n_taps, (5, 40), pass_zero=False, fs=250)
    _, (response,) = scipy_signal.freqz(taps, worN=[freq_hz], fs=250)
    assert gain(step, freq_hz) == pytest.approx(abs(response) ** 2, abs=0.01)


def test_fir_bandpass_shifts_nothing_in_time() -> None:
    (step,) = steps({"fir_bandpass": {"low_hz": 0.5, "high_hz": 40, "window": "hann"}})
    bump = np.exp(-((TIME_S - 2) ** 2) / (2 * 0.03**2)).astype(np.float32).reshape(1, 1, -1)
    out = preprocess(bump, [step], Signal(("I",), 250.0, 1000))
    assert out.argmax() == 500
    assert_allclose(out[0, 0, 400:601], out[0, 0, 400:601][::-1], atol=1e-5)


@pytest.mark.parametrize(("fs_hz", "n_timesteps"), [(100, 400), (500, 2000), (360, 1440), (128, 512)])
def test_resample_gives_the_samples_of_the_same_sine(fs_hz: float, n_timesteps: int) -> None:
    written = steps({"resample": {"fs_hz": fs_hz}})
    out = preprocess(sine(7), written, SIGNAL)
    assert output_signal(written, SIGNAL) == Signal(SIGNAL.lead_names, fs_hz, n_timesteps)
    assert out.shape == (1, 3, n_timesteps)
    middle = slice(n_timesteps // 8, -n_timesteps // 8)
    assert_allclose(out[..., middle], sine(7, fs_hz, n_timesteps)[..., middle], atol=0.01)


@pytest.mark.parametrize(("fs_hz", "up", "down"), [(500, 2, 1), (100, 2, 5), (360, 36, 25)])
def test_resample_is_scipys_polyphase_filter(fs_hz: float, up: int, down: int) -> None:
    ecg_NLT = noise(3)
    expected = scipy_signal.resample_poly(ecg_NLT, up, down, axis=-1, padtype="line")
    assert_array_equal(preprocess(ecg_NLT, steps({"resample": {"fs_hz": fs_hz}}), SIGNAL), expected)


@pytest.mark.parametrize(("fs_hz", "n_timesteps"), [(312.5, 1250), (100, 400), (360, 1440)])
def test_linear_resampling_draws_lines_from_the_first_timestep_to_the_last(fs_hz: float, n_timesteps: int) -> None:
    written, ecg_NLT = steps({"resample": {"fs_hz": fs_hz, "method": "linear"}}), noise(3)
    line = interp1d(np.linspace(0, 1, 1000), ecg_NLT.astype(np.float64), axis=-1)
    assert_allclose(preprocess(ecg_NLT, written, SIGNAL), line(np.linspace(0, 1, n_timesteps)), atol=1e-5)


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_decimate_is_scipys_without_phase_shift(factor: int) -> None:
    written, ecg_NLT = steps({"decimate": {"factor": factor}}), noise(3)
    expected = scipy_signal.decimate(ecg_NLT.astype(np.float64), factor, axis=-1, zero_phase=True)
    assert_allclose(preprocess(ecg_NLT, written, SIGNAL), expected, atol=1e-4)
    assert output_signal(written, SIGNAL).fs_hz == 250 / factor


def test_decimate_and_resample_agree_below_80_percent_of_the_new_band() -> None:
    decimated = preprocess(sine(15), steps({"decimate": {"factor": 5}}), SIGNAL)
    resampled = preprocess(sine(15), steps({"resample": {"fs_hz": 50}}), SIGNAL)
    assert_allclose(decimated[..., 40:-40], resampled[..., 40:-40], atol=0.02)


def test_resample_leaves_a_baseline_flat_to_its_ends() -> None:
    out = preprocess(np.full((1, 3, 1000), 2.5, np.float32), steps({"resample": {"fs_hz": 100}}), SIGNAL)
    assert_allclose(out, 2.5, atol=1e-3)


def test_leads_are_taken_in_the_order_given_in_any_case() -> None:
    written = steps({"leads": {"names": ["AVR", "i"]}})
    ecg_NLT = noise(4)
    assert_array_equal(preprocess(ecg_NLT, written, SIGNAL), ecg_NLT[:, [2, 0]])
    assert output_signal(written, SIGNAL).lead_names == ("aVR", "I")


def test_leads_that_are_missing_are_zeros_only_if_asked_for() -> None:
    written = steps({"leads": {"names": ["V1", "II"], "missing": "zero"}})
    ecg_NLT = noise(2)
    out = preprocess(ecg_NLT, written, SIGNAL)
    assert output_signal(written, SIGNAL).lead_names == ("V1", "II")
    assert not out[:, 0].any()
    assert_array_equal(out[:, 1], ecg_NLT[:, 1])
    with pytest.raises(ValueError, match="leads: 'V1' is not among I, II, aVR"):
        output_signal(steps({"leads": {"names": ["V1", "V2"], "missing": "zero"}}), SIGNAL)


def test_derived_limb_leads_follow_from_the_electrodes_potentials() -> None:
    right, left, foot, chest = np.random.default_rng(18).normal(size=(4, 2, 1, 50)).astype(np.float32)
    goldberger = {"aVR": right - (left + foot) / 2, "aVL": left - (right + foot) / 2, "aVF": foot - (right + left) / 2}
    whole = {"I": left - right, "II": foot - right, "III": foot - left, **goldberger, "V1": chest}
    given = ("V1", "II", "aVF", "I")
    signal, written = Signal(given, 250.0, 50), steps({"derive_limb_leads": {}})
    out = preprocess(np.concatenate([whole[name] for name in given], axis=1), written, signal)
    assert output_signal(written, signal).lead_names == tuple(whole)
    assert_allclose(out, np.concatenate(list(whole.values()), axis=1), atol=1e-6)
    with pytest.raises(ValueError, match="leads I and II are needed, got I, V1"):
        output_signal(written, Signal(("I", "V1"), 250.0, 50))


def test_derived_limb_leads_are_those_of_real_records(recordings: Path) -> None:
    record = read_wfdb(str(recordings / "ptbxl/records500/00000/00001_hr"))
    derived, order = derive_limb_leads(record.ecg_LT[[0, 1, *range(6, 12)]], [*LEADS_12[:2], *LEADS_12[6:]])
    assert order == LEADS_12
    assert_allclose(derived, record.ecg_LT, atol=0.0021)  # PTB-XL rounds each lead to 1 uV, aVL's halves too


def test_constant_leads_become_zero_and_others_stay() -> None:
    ecg_NLT = noise(2)
    ecg_NLT[0, 1] = 3.7
    out = preprocess(ecg_NLT, steps({"constant_leads": {}}), SIGNAL)
    assert not out[0, 1].any()
    ecg_NLT[0, 1] = 0
    assert_array_equal(out, ecg_NLT)


def test_minmax_is_scikit_learns_and_constant_leads_become_zero() -> None:
    ecg_NLT = noise(3)
    ecg_NLT[2, 0] = 1.5
    out = preprocess(ecg_NLT, steps({"minmax": {}}), SIGNAL)
    rows = ecg_NLT.reshape(9, 1000).astype(np.float64)
    expected = MinMaxScaler((-1, 1)).fit_transform(rows.T).T
    expected[6] = 0
    assert_allclose(out.reshape(9, 1000), expected, atol=1e-5)


GAPS = np.array([[[np.nan, 1, np.nan, 3, np.inf, 8], [np.nan] * 6]], np.float32)


@pytest.mark.parametrize(
    ("policy", "filled"),
    [("zero", [0, 1, 0, 3, 0, 8]), ("mean", [4, 1, 4, 3, 4, 8]), ("interpolate", [1, 1, 2, 3, 5.5, 8])],
)
def test_gaps_are_filled_by_policy(policy: str, filled: list[float]) -> None:
    out = preprocess(GAPS, steps({"nan": {"policy": policy}}), Signal(("I", "II"), 250.0, 6))
    assert_array_equal(out, [[filled, [0] * 6]])


def test_gaps_are_refused_by_policy() -> None:
    with pytest.raises(ValueError, match="9 values are not finite; choose a policy of zero, interpolate or mean"):
        preprocess(GAPS, steps({"nan": {"policy": "refuse"}}), Signal(("I", "II"), 250.0, 6))


@pytest.mark.parametrize(("keep", "start"), [("start", 0), ("centre", 150)])
def test_longer_records_are_cropped(keep: str, start: int) -> None:
    out = preprocess(noise(2), steps({"crop_or_pad": {"n_timesteps": 700, "keep": keep}}), SIGNAL)
    assert_array_equal(out, noise(2)[..., start : start + 700])


def test_shorter_records_are_padded_and_later_steps_leave_the_padding_out() -> None:
    written = steps({"crop_or_pad": {"n_timesteps": 1500}}, {"resample": {"fs_hz": 500}}, {"zscore": {"per": "lead"}})
    out = preprocess(noise(2), written, SIGNAL)
    assert out.shape == (2, 3, 3000)
    assert output_lengths(written, SIGNAL, np.array([1000, 1000, 30], np.int32)).tolist() == [2000, 2000, 60]
    assert_allclose(out[..., :2000].mean(axis=-1), 0, atol=1e-6)
    assert_allclose(out[..., :2000].std(axis=-1), 1, atol=1e-5)
    assert not out[..., 2000:].any()


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
        ([{"resample": {"fs_hz": 99.99}}], "must be in a ratio of numbers"),
        ([{"leads": {"names": ["V1"]}}], "leads: 'V1' is not among I, II, aVR"),
        ([{"leads": {"names": ["aVRR"]}}], "did you mean 'aVR'"),
        ([{"leads": {"names": ["I", "i"]}}], "each lead may be named once"),
        ([{"zscore": {"per": "global"}}, {"notch": {"freq_hz": 50}}], "zscore per global must be the last"),
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


CHAIN = st.lists(
    st.sampled_from(
        [
            {"bandpass": {"low_hz": 0.5, "high_hz": 20}},
            {"fir_bandpass": {"low_hz": 0.5, "high_hz": 20}},
            {"notch": {"freq_hz": 20}},
            {"resample": {"fs_hz": 100}},
            {"resample": {"fs_hz": 180, "method": "linear"}},
            {"decimate": {"factor": 2}},
            {"leads": {"names": ["II", "I"]}},
            {"leads": {"names": ["V1", "I", "II"], "missing": "zero"}},
            {"derive_limb_leads": {}},
            {"constant_leads": {}},
            {"nan": {"policy": "mean"}},
            {"zscore": {"per": "lead"}},
            {"zscore": {"per": "record"}},
            {"minmax": {}},
            {"crop_or_pad": {"n_timesteps": 300}},
            {"crop_or_pad": {"n_timesteps": 40, "keep": "centre"}},
            {"crop_or_pad": {"n_timesteps": 1200}},
        ]
    ),
    max_size=4,
)


@settings(max_examples=60, deadline=None)
@given(chain=CHAIN, lengths=st.lists(st.integers(1, 1000), min_size=1, max_size=4))
def test_a_padded_record_comes_out_as_the_bare_one_padded(chain: list[object], lengths: list[int]) -> None:
    try:
        written = steps(*chain)
        output = output_signal(written, SIGNAL)
    except ValueError:  # a filter above half the rate that the steps before leave
        return
    ecg_NLT, length_N = noise(len(lengths)), np.array(lengths, np.int32)
    for ecg_LT, length in zip(ecg_NLT, lengths, strict=True):
        ecg_LT[:, length:] = 0
    done_NLT = preprocess(ecg_NLT, written, SIGNAL, length_N)
    assert done_NLT.shape == (len(lengths), len(output.lead_names), output.n_timesteps)
    for row, after in enumerate(output_lengths(written, SIGNAL, length_N).tolist()):
        bare = replace(SIGNAL, n_timesteps=lengths[row])
        alone = preprocess(ecg_NLT[[row], :, : lengths[row]], written, bare)[0]
        assert_array_equal(done_NLT[row, :, :after], alone[:, :after])
        assert not done_NLT[row, :, after:].any()
        assert not alone[:, after:].any()


def test_steps_are_written_back_as_they_were_read() -> None:
    written = [{"notch": {"freq_hz": 50.0, "q": 30.0}}, {"zscore": {"per": "lead"}}]
    assert STEPS.dump_python(steps(*written), mode="json") == written
