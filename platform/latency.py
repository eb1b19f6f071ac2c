"""How long a model takes for one record."""

from __future__ import annotations

import time

import numpy as np
import torch

from platform.trained_model import TrainedModel
from platform.trained_onnx import onnx_network
from trainables.onnx_network import OnnxNetwork
from trainables.windows import window_signal, window_starts

WARM_UP_RUNS = 5
LEAST_RUNS, MOST_RUNS, ENOUGH_S = 10, 200, 2.0


def latency_ms(trained: TrainedModel) -> float:
    """Return the median time (ms) of one record through the ONNX file, by onnxruntime with one thread at batch 1.

    A record of several windows takes each in its turn. Preprocessing is not counted.
    """
    network, signal = onnx_network(trained, n_threads=1), trained.card.data.signal
    window = window_signal(trained.config, signal)
    noise = np.random.default_rng(0).standard_normal((1, len(window.lead_names), window.n_timesteps), np.float32)
    ecg_BLT = torch.from_numpy(noise)
    for _ in range(WARM_UP_RUNS):
        network(ecg_BLT)
    n_windows = len(window_starts(trained.config, np.array([signal.n_timesteps], np.int32))[0])
    return 1000 * n_windows * float(np.median(_times_s(network, ecg_BLT)))


def _times_s(network: OnnxNetwork, ecg_BLT: torch.Tensor) -> list[float]:
    times_s: list[float] = []
    while len(times_s) < LEAST_RUNS or (len(times_s) < MOST_RUNS and sum(times_s) < ENOUGH_S):
        start_s = time.perf_counter()
        network(ecg_BLT)
        times_s.append(time.perf_counter() - start_s)
    return times_s
