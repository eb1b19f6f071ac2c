"""HuBERT-ECG as an expert: prepared as the preset does, in windows of 5 s."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import torch

from data.preprocessing import Step, preprocess
from data.presets import HUBERT_ECG
from data.resampling import Resample
from data.scaling import MinMax
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.hubert_ecg import HubertEcgExpert, HubertEcgExpertConfig
from trainables.experts.table import build_expert
from trainables.onnx_export import serialise
from trainables.token_encoder import conv_features, encode, lay_out
from trainables.weight_files import BUNDLED


def test_it_gives_the_mean_token_of_windows_of_the_prepared_record() -> None:
    expert = build_expert(HubertEcgExpertConfig(), SIGNAL)
    assert isinstance(expert, HubertEcgExpert)
    ecg_BLT = records_of(lengths=(1_000, 600))
    found_BD = expert(ecg_BLT)
    length_N = np.array([1_000, 600], np.int32)
    prepared = torch.from_numpy(preprocess(ecg_BLT.numpy(), [Step.of(each) for each in HUBERT_ECG], SIGNAL, length_N))
    for row, starts in enumerate(((0, 500), (0, 100))):
        windows = torch.stack([prepared[row, :, start : start + 500] for start in starts])
        wave = lay_out(windows, expert._architecture)
        tokens = encode(expert.network, conv_features(expert.network, wave))
        torch.testing.assert_close(found_BD[row], tokens.mean(dim=(0, 1)), rtol=1e-3, atol=1e-4)


def test_the_bundled_one_reads_500_hz_scaled_over_the_record_as_it_was_pretrained() -> None:
    expert = build_expert(HubertEcgExpertConfig(weights="bundled"), SIGNAL)
    assert isinstance(expert, HubertEcgExpert)
    card = json.loads((BUNDLED / "hubert_tiny.json").read_text(encoding="utf-8"))
    assert expert.input.fs_hz == card["fs_hz"]
    assert card["seen"][-1]["preprocess"][-1]["minmax"] and expert.input.normalisation == "minmax"
    ecg_BLT = records_of(lengths=(1_000, 600))
    steps = [Step.of(Resample(fs_hz=500)), Step.of(MinMax())]
    prepared = torch.from_numpy(preprocess(ecg_BLT.numpy(), steps, SIGNAL, np.array([1_000, 600], np.int32)))
    found_BD = expert(ecg_BLT)
    for row, starts in enumerate(((0, 2_500), (0, 500))):
        windows = torch.stack([prepared[row, :, start : start + 2_500] for start in starts])
        tokens = encode(expert.network, conv_features(expert.network, lay_out(windows, expert._architecture)))
        torch.testing.assert_close(found_BD[row], tokens.mean(dim=(0, 1)), rtol=5e-3, atol=5e-3)


def test_the_bundled_one_goes_to_onnx() -> None:
    expert = build_expert(HubertEcgExpertConfig(weights="bundled"), SIGNAL)
    assert expert.not_exported_since is None
    session = onnxruntime.InferenceSession(serialise(expert, SIGNAL), providers=["CPUExecutionProvider"])
    ecg_BLT = records_of(lengths=(1_000, 640))
    (found,) = session.run(None, {"ecg": ecg_BLT.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expert(ecg_BLT), rtol=1e-3, atol=1e-4)
