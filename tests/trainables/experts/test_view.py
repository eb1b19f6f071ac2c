"""What an expert sees of a record: its leads, its rate, normalised over its own length, in windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.dataset import Signal
from data.leads import LEADS_12
from data.resampling import resample
from data.scaling import MinMax
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.expert import ExpertInput, Resampling
from trainables.experts.view import View


def wanted(lead_names: tuple[str, ...] = LEADS_12, fs_hz: float = 100.0, n_timesteps: int = 1_000) -> ExpertInput:
    return ExpertInput(lead_names, fs_hz, n_timesteps, "none")


@pytest.mark.parametrize("method", ["linear", "polyphase"])
@pytest.mark.parametrize(("from_hz", "to_hz"), [(500.0, 50.0), (100.0, 500.0), (360.0, 51.2)])
def test_records_are_resampled_as_preprocessing_does_each_without_its_padding(
    method: Resampling, from_hz: float, to_hz: float
) -> None:
    signal = Signal(("I", "II"), from_hz, 900)
    ecg_BLT = records_of(signal, (900, 500)) + torch.tensor(3.0) * (records_of(signal, (900, 500)) != 0)
    n_timesteps = resample(np.zeros(900), from_hz, to_hz, method).size
    view = View(replace(wanted(("I", "II"), to_hz, n_timesteps), resampling=method), signal)
    found = view(ecg_BLT).ecg_RLT.numpy()
    for row, length in enumerate((900, 500)):
        expected_LT = resample(ecg_BLT[row, :, :length].double().numpy(), from_hz, to_hz, method)
        np.testing.assert_allclose(found[row, :, : expected_LT.shape[1]], expected_LT, atol=2e-3)
        assert not found[row, :, expected_LT.shape[1] :].any()


def test_windows_lie_side_by_side_and_the_last_ends_with_the_record() -> None:
    view = View(wanted(n_timesteps=400), SIGNAL)
    ecg_BLT = records_of(lengths=(1_000, 700, 300))
    windows = view(ecg_BLT)
    assert windows.is_there_BW.tolist() == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    window_BWLT = windows.ecg_RLT.unflatten(0, (3, 3))
    for row, starts in enumerate(((0, 400, 600), (0, 300), (0,))):
        for number, start in enumerate(starts):
            torch.testing.assert_close(window_BWLT[row, number], ecg_BLT[row, :, start : start + 400])
    assert windows.is_signal_RT.unflatten(0, (3, 3))[:, 0].sum(dim=1).tolist() == [400, 400, 300]


def test_the_mean_is_over_the_windows_that_a_record_has() -> None:
    windows = View(wanted(n_timesteps=400), SIGNAL)(records_of(lengths=(1_000, 700, 300)))
    number_RD = torch.arange(9.0)[:, None]
    assert windows.mean(number_RD)[:, 0].tolist() == [1.0, 3.5, 6.0]


def test_each_lead_or_the_whole_record_is_standardised_over_its_own_length() -> None:
    ecg_BLT = records_of() * torch.arange(1, 13)[:, None]
    ecg_BLT[0, 4] = 0  # a lead without a signal
    by_lead = View(replace(wanted(), normalisation="lead"), SIGNAL)(ecg_BLT).ecg_RLT
    expected_LT = ecg_BLT[1, :, :700]
    expected_LT = (expected_LT - expected_LT.mean(dim=1, keepdim=True)) / expected_LT.std(
        dim=1, keepdim=True, correction=0
    )
    torch.testing.assert_close(by_lead[1, :, :700], expected_LT, rtol=1e-4, atol=1e-4)
    assert not by_lead[1, :, 700:].any() and not by_lead[0, 4].any()
    by_record = View(replace(wanted(), normalisation="record"), SIGNAL)(ecg_BLT).ecg_RLT[1, :, :700]
    assert float(by_record.mean()) == pytest.approx(0, abs=1e-5)
    assert float(by_record.std(correction=0)) == pytest.approx(1, rel=1e-4)
    assert float(by_record[11].std() / by_record[0].std()) > 2


def test_each_lead_is_scaled_over_its_own_length_as_preprocessing_does() -> None:
    ecg_BLT = records_of() * torch.arange(1, 13)[:, None]
    ecg_BLT[0, 4] = 2  # a lead without a signal
    found = View(replace(wanted(), normalisation="minmax"), SIGNAL)(ecg_BLT).ecg_RLT
    for row, length in enumerate((1_000, 700, 1_000)):
        expected_1LT = MinMax().apply(ecg_BLT[row : row + 1, :, :length].numpy(), SIGNAL)
        np.testing.assert_allclose(found[row : row + 1, :, :length], expected_1LT, atol=1e-5)
        assert not found[row, :, length:].any()


def test_leads_are_found_by_name_and_missing_ones_are_zeros_where_the_expert_knows_them() -> None:
    signal = replace(SIGNAL, lead_names=("v1", "ii"))
    ecg_BLT = records_of(signal)
    view = View(replace(wanted(("II", "V1", "V2")), missing="zero"), signal)
    found = view(ecg_BLT).ecg_RLT
    torch.testing.assert_close(found[:, :2], ecg_BLT.flip(1))
    assert not found[:, 2].any()


def test_a_lead_that_is_needed_must_be_there_but_the_only_one_stands_for_any() -> None:
    with pytest.raises(ValueError, match="reads II, but the records' leads are V1, V2, without II"):
        View(wanted(("II",)), replace(SIGNAL, lead_names=("V1", "V2")))
    with pytest.raises(ValueError, match="without I"):
        View(replace(wanted(), missing="zero"), replace(SIGNAL, lead_names=("MLII",), n_timesteps=500))
    single = replace(SIGNAL, lead_names=("MLII",))
    ecg_BLT = records_of(single)
    torch.testing.assert_close(View(wanted(("II",)), single)(ecg_BLT).ecg_RLT, ecg_BLT)
