"""How long a model takes for one record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from platform.models.trained_model import TrainedModel
from platform.models.trained_onnx import onnx_network
from trainables.onnx_export import why_not_exported
from trainables.windows import window_signal, window_starts

WARM_UP_RUNS = 5
LEAST_RUNS, MOST_RUNS, ENOUGH_S = 10, 200, 2.0


def latency_ms(trained: TrainedModel) -> float:
    """Return the median time (ms) of one record through the ONNX file, by onnxruntime with one thread at batch 1.

    A model that can't go to ONNX answers through PyTorch, with one thread too. A record of several windows takes each
    in its turn. Preprocessing is not counted.
    """
    signal = trained.card.data.signal
    window = window_signal(trained.config, signal)
    noise = np.random.default_rng(0).standard_normal((1, len(window.lead_names), window.n_timesteps), np.float32)
    ecg_BLT = torch.from_numpy(noise)
    n_windows = len(window_starts(trained.config, np.array([signal.n_timesteps], np.int32))[0])
    with _network(trained) as network, torch.inference_mode():
        for _ in range(WARM_UP_RUNS):
            network(ecg_BLT)
        return 1000 * n_windows * float(np.median(_times_s(network, ecg_BLT)))


@contextmanager
def _network(trained: TrainedModel) -> Iterator[nn.Module]:
    if why_not_exported(trained.model) is None:
        yield onnx_network(trained, n_threads=1)
        return
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield trained.model.eval()
    finally:
        torch.set_num_threads(n_threads)


def _times_s(network: nn.Module, ecg_BLT: torch.Tensor) -> list[float]:
    times_s: list[float] = []
    while len(times_s) < LEAST_RUNS or (len(times_s) < MOST_RUNS and sum(times_s) < ENOUGH_S):
        start_s = time.perf_counter()
        network(ecg_BLT)
        times_s.append(time.perf_counter() - start_s)
    return times_s
