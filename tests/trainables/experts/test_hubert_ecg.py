"""HuBERT-ECG as an expert: prepared as the preset does, in windows of 5 s."""

from __future__ import annotations

import numpy as np
import torch

from data.preprocessing import Step, preprocess
from data.presets import HUBERT_ECG
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.hubert_ecg import HubertEcgExpert, HubertEcgExpertConfig
from trainables.experts.table import build_expert
from trainables.token_encoder import conv_features, encode, lay_out


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
