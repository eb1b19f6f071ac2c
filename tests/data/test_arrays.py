"""`data.preprocess`: arrays from a notebook, by a preset, by steps, or as HuBERT-ECG's guide writes it."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from pydantic import TypeAdapter

import data
from data import preprocessing
from data.dataset import Signal
from data.leads import LEADS_12
from data.preprocessing import Steps


def recordings_of(n_records: int) -> NDArray[np.float32]:
    return np.random.default_rng(18).normal(size=(n_records, 12, 5000)).cumsum(axis=-1).astype(np.float32)


ECG_NLT = recordings_of(3)


def test_the_package_is_imported_without_the_libraries_of_preprocessing() -> None:
    code = "import sys, data; print(sorted({'numpy', 'scipy', 'pydantic'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_the_guides_options_give_hubert_ecgs_preset_at_100_hz() -> None:
    out = data.preprocess(ECG_NLT[0], fs_hz=500, target_length=5000, downsampling_factor=5, normalize=True)
    assert out.shape == (12, 1000)
    assert out.dtype == np.float32
    assert_array_equal(out, data.preprocess(ECG_NLT[0], fs_hz=500, preset="hubert_ecg"))
    assert_array_equal(out, data.preprocess(ECG_NLT[0], fs_hz=500))


def test_the_guides_options_pad_with_zeros_scale_or_not_and_keep_the_rate() -> None:
    padded = data.preprocess(ECG_NLT[0], fs_hz=500, target_length=6000, downsampling_factor=1)
    assert padded.shape == (12, 6000)
    assert not padded[:, 5000:].any()
    assert_allclose(padded.max(axis=-1), 1, atol=1e-6)
    assert_allclose(padded.min(axis=-1), -1, atol=1e-6)
    assert abs(data.preprocess(ECG_NLT[0], fs_hz=500, normalize=False)).max() > 10
    assert data.preprocess(ECG_NLT[0], fs_hz=1000, target_length=2500).shape == (12, 500)


def test_several_records_are_each_processed_by_themselves() -> None:
    together = data.preprocess(ECG_NLT, fs_hz=400, preset="ecg_fm")
    assert together.shape == (3, 12, 6250)
    assert_array_equal(together[1], data.preprocess(ECG_NLT[1], fs_hz=400, preset="ecg_fm"))


def test_steps_do_what_they_do_in_a_sweep() -> None:
    written = [{"bandpass": {"low_hz": 0.5, "high_hz": 40}}, {"preset": "iesd"}, {"zscore": {"per": "record"}}]
    chain = TypeAdapter(Steps).validate_python(written)
    expected = preprocessing.preprocess(ECG_NLT, chain, Signal(LEADS_12, 500.0, 5000))
    assert_array_equal(data.preprocess(ECG_NLT, fs_hz=500, steps=written), expected)


def test_the_input_is_left_as_it_was() -> None:
    before = ECG_NLT.copy()
    data.preprocess(ECG_NLT, fs_hz=500, steps=[{"leads": {"names": ["V1", "I"]}}, {"minmax": {}}])
    assert_array_equal(ECG_NLT, before)


def test_values_that_are_not_finite_are_refused_unless_a_policy_is_named() -> None:
    ecg_LT = ECG_NLT[0].copy()
    ecg_LT[2, 7] = np.nan
    with pytest.raises(ValueError, match="1 values are not finite; choose a policy"):
        data.preprocess(ecg_LT, fs_hz=500, preset="ecg_fm")
    out = data.preprocess(ecg_LT, fs_hz=500, preset="ecg_fm", nan="interpolate")
    assert np.isfinite(out).all()
    assert_array_equal(out[:2], data.preprocess(ECG_NLT[0], fs_hz=500, preset="ecg_fm")[:2])


@pytest.mark.parametrize(
    ("ecg", "options", "message"),
    [
        (ECG_NLT[0].T, {}, r"looks transposed: .* got \(5000, 12\); pass np.swapaxes\(ecg, -1, -2\)"),
        (ECG_NLT.swapaxes(1, 2), {}, r"looks transposed: .* got \(3, 5000, 12\)"),
        (ECG_NLT[0, :8], {}, "ecg has 8 leads, but 12 are named; .*lead_names="),
        (ECG_NLT[0, 0], {}, r"must have the shape \(leads, timesteps\), .* got \(5000,\)"),
        (ECG_NLT[:0], {}, r"must have the shape .* got \(0, 12, 5000\)"),
        (ECG_NLT, {"preset": "ecgfm"}, "step 0.preset: .*'ecg_fm'.* got 'ecgfm'"),
        (ECG_NLT, {"preset": "ecg_fm", "normalize": True}, "give a preset, or steps, or .* got preset, normalize"),
        (ECG_NLT, {"preset": "ecg_fm", "steps": []}, "got preset, steps; .*steps=.*'preset': 'ecg_fm'"),
        (ECG_NLT, {"steps": [{"bandpas": {}}]}, "step 0.bandpas"),
        (ECG_NLT, {"steps": [{"zscore": {"per": "global"}}]}, "zscore per global needs a training run"),
        (ECG_NLT, {"target_length": 0}, "n_timesteps: .*greater than or equal to 1; got 0"),
        (ECG_NLT, {"downsampling_factor": 20}, "factor: .*less than or equal to 13; got 20"),
        (ECG_NLT, {"nan": "drop"}, "step 0.nan.policy"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(ecg: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        data.preprocess(ecg, fs_hz=500, **options)
    assert "\n" not in str(caught.value)
