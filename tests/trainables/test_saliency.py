"""Saliency: integrated gradients, brought back to the record's own time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.trainables.small_predictor import small_predictor
from trainables.deployed_onnx import ecg_like
from trainables.saliency import attribute, saliency

LENGTH = 200


class Looks(nn.Module):
    """Adds up a stretch of the first lead: its integrated gradients are that stretch."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        looked_B1 = ecg_BLT[:, :1, self.start : self.stop].sum(dim=2)
        return torch.cat([torch.zeros_like(looked_B1), looked_B1, -looked_B1], dim=1)


def looking(start: int, stop: int, preprocess: Any = (), **params: Any) -> Any:
    return replace(small_predictor(preprocess, **params), network=Looks(start, stop))


def test_attributions_add_up_to_what_the_signal_changes() -> None:
    predictor = small_predictor()
    ecg_BLT = ecg_like(predictor.data.input_signal, 2)
    with torch.inference_mode():
        logits_BK = predictor.network(torch.from_numpy(ecg_BLT)).numpy()
        empty_BK = predictor.network(torch.zeros(2, 3, LENGTH)).numpy()
    total_B = attribute(predictor.network, ecg_BLT, 2).sum(axis=(1, 2))
    np.testing.assert_allclose(total_B, (logits_BK - empty_BK)[:, 2], rtol=0.1, atol=0.02)


def test_of_a_sum_each_timestep_has_its_own_value() -> None:
    ecg_BLT = ecg_like(small_predictor().data.input_signal, 1)
    expected_BLT = np.zeros_like(ecg_BLT)
    expected_BLT[:, 0, 40:60] = ecg_BLT[:, 0, 40:60]
    np.testing.assert_allclose(attribute(Looks(40, 60), ecg_BLT, 1), expected_BLT, atol=1e-6)


@pytest.mark.parametrize(
    ("preprocess", "start", "stop", "expected"),
    [
        ([], 40, 60, (40, 60)),
        ([{"resample": {"fs_hz": 50}}], 20, 30, (40, 60)),
        ([{"crop_or_pad": {"n_timesteps": 100, "keep": "centre"}}], 40, 60, (90, 110)),
        ([{"crop_or_pad": {"n_timesteps": 100}}], 40, 60, (40, 60)),
    ],
)
def test_it_lies_in_the_records_own_time(preprocess: Any, start: int, stop: int, expected: tuple[int, int]) -> None:
    predictor = looking(start, stop, preprocess)
    weight_T = saliency(predictor, np.ones((3, LENGTH), np.float32), 1)
    assert len(weight_T) == LENGTH
    assert weight_T.max() == 1
    heavy = np.flatnonzero(weight_T > 0.4)
    assert abs(heavy[0] - expected[0]) <= 3 and abs(heavy[-1] - expected[1]) <= 3


def test_windows_and_pieces_are_put_where_they_were() -> None:
    predictor = looking(0, 10, crop_timesteps=50, window_stride=50)
    weight_T = saliency(predictor, np.ones((3, 400), np.float32), 1)
    starts = np.flatnonzero(np.diff((weight_T > 0.4).astype(int)) == 1)
    assert np.diff(starts) == pytest.approx(50, abs=3)


def test_a_record_without_any_effect_has_no_weight() -> None:
    assert saliency(looking(0, 10), np.ones((3, 150), np.float32), 0).tolist() == [0.0] * 150
