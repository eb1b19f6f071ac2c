"""Features of tokens against numpy and scipy, frame by frame; the faults of the published code that are not ours."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.signal import decimate

from data.dataset import Signal
from data.preprocessing import Step, preprocess
from data.token_features import FeatureConfig, FeatureType, extract_features, time_freq
from data.tokens import TokenGrid

GRID = TokenGrid(12, 500, 100.0)
WHOLE = np.full(3, 500, np.int32)


def records(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (3, 12, 500)).astype(np.float32)


@pytest.mark.parametrize(("feature_type", "n_features"), [("time_freq", 16), ("mfcc", 39), ("mixed", 29)])
def test_each_kind_has_its_number_of_features(feature_type: FeatureType, n_features: int) -> None:
    config = FeatureConfig(feature_type=feature_type)
    features_NFD, valid_NF = extract_features(records(), WHOLE, GRID, config)
    assert features_NFD.shape == (3, 93, n_features) == (3, 93, config.n_features)
    assert np.isfinite(features_NFD).all() and valid_NF.all()


def test_the_sixteen_are_what_numpy_and_scipy_say() -> None:
    x = records()[0, 0, :64].astype(np.float64) + 0.3
    spectrum = np.abs(np.fft.fft(x)) ** 2 / len(x)
    rms = np.sqrt((x**2).mean())
    expected = [
        x.min(), x.max(), x.mean(), rms, x.var(), x.std(), (x**2).mean(), np.abs(x).max(), np.ptp(x),
        np.abs(x).max() / rms, stats.skew(x), stats.kurtosis(x),
        spectrum.max(), spectrum.sum(), spectrum.mean(), spectrum.var(),
    ]  # fmt: skip
    np.testing.assert_allclose(time_freq(x.astype(np.float32)[None, None])[0, 0], expected, rtol=1e-3)


def test_a_flat_frame_has_finite_features() -> None:
    assert np.isfinite(time_freq(np.full((1, 1, 64), 0.5, np.float32))).all()
    config = FeatureConfig(feature_type="mfcc")
    assert np.isfinite(extract_features(np.zeros((3, 12, 500), np.float32), WHOLE, GRID, config).features_NFD).all()


def test_deltas_are_not_zero() -> None:
    """One window a shard, as published, has no neighbour to differ from: 26 of the 39 would be 0."""
    features_NFD = extract_features(records(), WHOLE, GRID, FeatureConfig()).features_NFD
    assert (features_NFD[..., 13:].std(axis=(0, 1)) > 1e-3).all()


def test_a_records_features_do_not_depend_on_its_slab() -> None:
    config = FeatureConfig(feature_type="mixed")
    alone = extract_features(records()[1:2], WHOLE[:1], GRID, config).features_NFD
    np.testing.assert_allclose(extract_features(records(), WHOLE, GRID, config).features_NFD[1:2], alone, atol=1e-4)


def test_leads_are_decimated_each_alone() -> None:
    """Joined first and decimated then, a lead's step at its end would ring into the next lead."""
    signal = Signal(("I", "II"), 500.0, 2500)
    ecg_NLT = np.zeros((1, 2, 2500), np.float32)
    ecg_NLT[0, 0] = 1
    done_NLT = preprocess(ecg_NLT, (Step.model_validate({"decimate": {"factor": 5}}),), signal)
    np.testing.assert_allclose(done_NLT[0, 1], 0, atol=1e-6)
    joined = decimate(ecg_NLT[0].reshape(-1), 5)
    assert np.abs(joined[500:510]).max() > 1e-2  # what joining does
