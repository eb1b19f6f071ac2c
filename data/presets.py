"""The preprocessing chain of each of the five systems, and where it differs from the system's own code.

A preset ends where the system's models begin: windows, such as ECG-FM's and HuBERT-ECG's of 5 s, are cut by the method
(`crop_timesteps`), which sees the whole record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from data.crop import CropOrPad
from data.filters import Bandpass, FirBandpass
from data.gaps import Nan
from data.leads import LEADS_12, Leads
from data.operation import Operation
from data.resampling import Decimate, Resample
from data.scaling import MinMax, Zscore

PresetName = Literal["adagrad_fusion", "hubert_ecg", "ecg_fm", "enecg", "iesd"]

# Its code never resamples, and so holds for 500 Hz only; the rest is the same. It scales before it cuts to 6,144.
ADAGRAD_FUSION: tuple[Operation, ...] = (
    Resample(fs_hz=500),
    Bandpass(low_hz=1, high_hz=47, order=3),
    Zscore(per="lead"),
    CropOrPad(n_timesteps=6144),
)

# Differences: gaps are filled first, where its filter spreads a NaN over the whole lead; a polyphase filter resamples,
# where the FFT takes a record's two ends for neighbours; a constant lead becomes 0, not -1; each lead is decimated
# alone, where its code decimates all leads as one sequence, which rings across their borders. Kept: the filter's
# 0.05 Hz is nominal (0.3 s can't tell it from 0 Hz), but published weights are trained with it.
HUBERT_ECG: tuple[Operation, ...] = (
    Nan(policy="mean"),
    FirBandpass(low_hz=0.05, high_hz=47),
    Resample(fs_hz=500),
    MinMax(),
    Decimate(factor=5),
)

# As published, down to how it resamples: a straight line from the first to the last timestep. Missing leads are zeros,
# which the model knows from its lead masking.
ECG_FM: tuple[Operation, ...] = (
    Leads(names=LEADS_12, missing="zero"),
    Resample(fs_hz=500, method="linear"),
    Zscore(per="lead"),
)

# Differences: a polyphase filter resamples, to a rate, where its code squeezes a record of any length into 5,000.
ENECG: tuple[Operation, ...] = (
    Nan(policy="zero"),
    Zscore(per="record"),
    Resample(fs_hz=500),
    CropOrPad(n_timesteps=5000),
)

# The contest's segments come filtered, and are used as they are; the steps bring other sources to their rate and
# length. Put a bandpass before them where the source is not filtered.
IESD: tuple[Operation, ...] = (Resample(fs_hz=250), CropOrPad(n_timesteps=1250))

PRESETS: Mapping[PresetName, tuple[Operation, ...]] = MappingProxyType(
    {
        "adagrad_fusion": ADAGRAD_FUSION,
        "hubert_ecg": HUBERT_ECG,
        "ecg_fm": ECG_FM,
        "enecg": ENECG,
        "iesd": IESD,
    }
)
