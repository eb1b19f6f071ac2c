"""Presets: each chain against scipy's functions, and ECG-FM's against another pipeline's outputs."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from scipy import signal as scipy_signal
from scipy import stats
from scipy.io import loadmat

import data
from data.config import DataConfig
from data.dataset import Signal
from data.leads import LEADS_12
from data.preprocessing import Step, output_signal
from data.presets import PRESETS, PresetName


def recording(n_timesteps: int = 5000) -> NDArray[np.float32]:
    ecg_LT = np.random.default_rng(18).normal(size=(12, n_timesteps)).cumsum(axis=-1)
    return (ecg_LT - ecg_LT.mean(axis=-1, keepdims=True)).astype(np.float32) * np.float32(0.02)


def config(*preprocess: object) -> DataConfig:
    return DataConfig.model_validate({"store": "s", "preprocess": preprocess})


def test_every_name_has_its_steps() -> None:
    assert set(PRESETS) == set(get_args(PresetName))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_in_a_spec_becomes_its_steps(preset: PresetName) -> None:
    resolved = config({"preset": preset}, {"notch": {"freq_hz": 20}})
    assert [step.operation for step in resolved.preprocess[:-1]] == list(PRESETS[preset])
    written = resolved.model_dump(mode="json")["preprocess"]
    assert "preset" not in str(written)
    assert config(*written).preprocess == resolved.preprocess


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="'adagrad_fusion', 'hubert_ecg', 'ecg_fm', 'enecg' or 'iesd'"):
        config({"preset": "ecgfm"})


def test_adagrad_fusion_filters_standardises_and_pads_to_6144() -> None:
    out = data.preprocess(recording(), fs_hz=500, preset="adagrad_fusion")
    numerator, denominator = scipy_signal.butter(3, (1, 47), "bandpass", fs=500)
    filtered = scipy_signal.filtfilt(numerator, denominator, recording().astype(np.float64))
    assert out.shape == (12, 6144)
    middle = slice(500, -500)  # the two forms of the filter extend a record's ends by different lengths
    assert_allclose(out[:, :5000][:, middle], stats.zscore(filtered, axis=-1)[:, middle], atol=5e-3)
    assert not out[:, 5000:].any()


def test_hubert_ecg_filters_scales_and_decimates_each_lead() -> None:
    out = data.preprocess(recording(), fs_hz=500, preset="hubert_ecg")
    taps = scipy_signal.firwin(151, (0.05, 47), pass_zero=False, fs=500)  # biosppy's: int(0.3 * 500), made odd
    filtered = scipy_signal.filtfilt(taps, 1.0, recording().astype(np.float64))
    low, high = filtered.min(axis=-1, keepdims=True), filtered.max(axis=-1, keepdims=True)
    scaled = 2 * (filtered - low) / (high - low + 1e-8) - 1
    expected = [scipy_signal.decimate(lead_T, 5, zero_phase=True) for lead_T in scaled]
    assert out.shape == (12, 1000)
    assert_allclose(out, expected, atol=1e-4)


def test_hubert_ecg_fills_gaps_with_the_leads_mean() -> None:
    ecg_LT = recording()
    ecg_LT[3, 1000:1100] = np.nan
    filled = np.where(np.isnan(ecg_LT), np.nanmean(ecg_LT, axis=-1, keepdims=True), ecg_LT)
    out = data.preprocess(ecg_LT, fs_hz=500, preset="hubert_ecg")
    assert_allclose(out, data.preprocess(filled, fs_hz=500, preset="hubert_ecg"), atol=1e-6)


def test_enecg_standardises_the_record_as_a_whole_and_zeroes_gaps() -> None:
    ecg_LT = recording()
    ecg_LT[0, :10] = np.inf
    out = data.preprocess(ecg_LT, fs_hz=500, preset="enecg")
    ecg_LT[0, :10] = 0
    assert_allclose(out, stats.zscore(ecg_LT.astype(np.float64), axis=None), atol=1e-5)
    assert data.preprocess(ecg_LT, fs_hz=1000, preset="enecg").shape == (12, 5000)


def test_iesd_leaves_the_contests_segments_as_they_are() -> None:
    segment = recording(1250)[:1]
    assert_array_equal(data.preprocess(segment, fs_hz=250, preset="iesd", lead_names=["II"]), segment)
    assert data.preprocess(recording(), fs_hz=500, preset="iesd").shape == (12, 1250)


def test_ecg_fm_takes_one_lead_and_gives_twelve() -> None:
    chain = tuple(map(Step.of, PRESETS["ecg_fm"]))
    assert output_signal(chain, Signal(("II",), 400.0, 4000)) == Signal(LEADS_12, 500, 5000)
    out = data.preprocess(recording()[1:2], fs_hz=500, preset="ecg_fm", lead_names=["II"])
    assert out.any(axis=-1).tolist() == [name == "II" for name in LEADS_12]


@pytest.mark.parametrize(
    ("exam", "file", "start"),
    [
        ("1238362", "preprocessed/code_15_1238362.mat", 0),
        ("1238362", "segmented/code_15_1238362_0.mat", 0),
        ("1594286", "segmented/code_15_1594286_0.mat", 0),
        ("1594286", "segmented/code_15_1594286_1.mat", 2500),
    ],
)
def test_ecg_fm_gives_the_outputs_of_its_own_pipeline(recordings: Path, exam: str, file: str, start: int) -> None:
    theirs_LT = loadmat(recordings / "code15" / file)["feats"]
    exam_LT = loadmat(recordings / f"code15/org/code_15_{exam}.mat")["feats"]
    ours_LT = data.preprocess(exam_LT, fs_hz=400, preset="ecg_fm")
    if file.startswith("preprocessed"):
        assert ours_LT.shape == theirs_LT.shape == (12, 3667)
    # In standard deviations; float32 keeps 7 digits.
    assert_allclose(ours_LT[:, start : start + theirs_LT.shape[1]], theirs_LT, atol=5e-6)


def test_hubert_ecgs_preset_keeps_records_without_a_label_unless_told_otherwise() -> None:
    preset = [{"preset": "hubert_ecg"}]
    assert not DataConfig.model_validate({"store": "x", "preprocess": preset}).drop_unlabelled
    assert DataConfig.model_validate({"store": "x", "preprocess": preset, "drop_unlabelled": True}).drop_unlabelled
    assert DataConfig.model_validate({"store": "x", "preprocess": [{"preset": "ecg_fm"}]}).drop_unlabelled
    assert DataConfig.model_validate({"store": "x"}).drop_unlabelled
