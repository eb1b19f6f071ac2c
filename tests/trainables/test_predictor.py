"""Records of any length are prepared and answered as the run's own records were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.preprocessing import preprocess
from tests.trainables.small_predictor import small_predictor
from trainables.deployed_onnx import ecg_like
from trainables.predictor import Predictor, cut


def records(predictor: Predictor, *lengths: int) -> list[NDArray[np.float32]]:
    ecg_NLT = ecg_like(predictor.data.input_signal, len(lengths))
    long_NLT = np.concatenate([ecg_NLT, ecg_NLT[:, :, ::-1], ecg_NLT], axis=2)
    return [ecg_LT[:, :length] for ecg_LT, length in zip(long_NLT, lengths, strict=True)]


def test_records_of_the_stores_length_get_the_networks_own_probabilities() -> None:
    predictor = small_predictor([{"bandpass": {"low_hz": 0.5, "high_hz": 40}}, {"zscore": {"per": "lead"}}])
    given = records(predictor, 200, 200, 200)
    prepared_NLT = preprocess(np.stack(given), predictor.data.preprocess, predictor.data.input_signal)
    with torch.inference_mode():
        expected_NK = torch.sigmoid(predictor.network(torch.from_numpy(prepared_NLT)).double()).numpy()
    np.testing.assert_allclose(predictor.predict(given), expected_NK, atol=1e-6)
    assert expected_NK.std(axis=0).min() > 1e-3


def test_the_batch_size_and_the_other_records_have_no_effect() -> None:
    predictor = small_predictor([{"zscore": {"per": "lead"}}])
    given = records(predictor, 200, 120, 450, 200)
    together_NK = predictor.predict(given)
    np.testing.assert_allclose(predictor.predict(given, batch_size=1), together_NK, atol=1e-6)
    for ecg_LT, expected_K in zip(given, together_NK, strict=True):
        np.testing.assert_allclose(predictor.predict([ecg_LT])[0], expected_K, atol=1e-6)


def test_a_short_record_is_prepared_without_its_padding() -> None:
    predictor = small_predictor([{"zscore": {"per": "lead"}}])
    (short,) = records(predictor, 120)
    prepared_LT = np.zeros((3, 200), np.float32)
    prepared_LT[:, :120] = (short - short.mean(axis=1, keepdims=True)) / short.std(axis=1, keepdims=True)
    with torch.inference_mode():
        expected_K = torch.sigmoid(predictor.network(torch.from_numpy(prepared_LT[np.newaxis])))[0].numpy()
    np.testing.assert_allclose(predictor.predict([short])[0], expected_K, atol=1e-5)


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_a_long_record_is_pooled_over_pieces_that_overlap_by_half(pooling: str, pool: object) -> None:
    predictor = small_predictor([{"zscore": {"per": "record"}}], window_pooling=pooling)
    (long,) = records(predictor, 450)
    pieces = [long[:, start : start + 200] for start in (0, 100, 200, 250)]
    expected_K = pool(predictor.predict(pieces), axis=0)  # type: ignore[operator]
    np.testing.assert_allclose(predictor.predict([long])[0], expected_K, atol=1e-6)


def test_a_long_record_of_a_regression_gets_the_mean_of_its_pieces() -> None:
    predictor = small_predictor(task="regression")
    (long,) = records(predictor, 300)
    expected_K = predictor.predict([long[:, :200], long[:, 100:]]).mean(axis=0)
    np.testing.assert_allclose(predictor.predict([long])[0], expected_K, rtol=1e-5)


def test_records_of_several_lengths_are_pooled_each_by_itself() -> None:
    predictor = small_predictor(task="multiclass")
    given = records(predictor, 450, 200, 50)
    predicted_NK = predictor.predict(given)
    np.testing.assert_allclose(predicted_NK.sum(axis=1), 1)
    np.testing.assert_allclose(predicted_NK[1], predictor.predict([given[1]])[0], atol=1e-6)


def test_pieces_leave_no_timestep_out() -> None:
    signal = small_predictor().data.input_signal
    for length in (1, 199, 200, 201, 299, 300, 999):
        pieces = cut([np.ones((3, length), np.float32)], signal)
        seen = {
            time
            for start, own in zip(pieces.start_P.tolist(), pieces.length_P.tolist(), strict=True)
            for time in range(start, start + own)
        }
        assert seen == set(range(length))
        assert (pieces.ecg_PLT != 0).sum() == 3 * pieces.length_P.sum()
