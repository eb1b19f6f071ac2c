"""The data steps that a stage of a chain may name: one line each."""

from __future__ import annotations

from trainables.data_step import DataStep
from trainables.hubert_ecg_clusters import HUBERT_ECG_CLUSTERS
from trainables.hubert_ecg_features import HUBERT_ECG_FEATURES

DATA_STEPS: dict[str, DataStep] = {step.name: step for step in (HUBERT_ECG_FEATURES, HUBERT_ECG_CLUSTERS)}
