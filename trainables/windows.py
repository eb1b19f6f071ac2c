"""Windows: the pieces of a record that a model sees at once, cropped at random in training and tiled in evaluation.

B: records, R: those of them that have a window of some number, W: windows of a record, L: leads, T: timesteps,
S: timesteps of all windows of a record.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import Batch, Signal
from trainables.config import LoopConfig, TrainConfig


def window_timesteps(config: LoopConfig, signal: Signal) -> int:
    """Return how many timesteps of a record the model sees at once; all of them where the method does not crop."""
    crop_timesteps = config.crop_timesteps if isinstance(config, TrainConfig) else None
    return signal.n_timesteps if crop_timesteps is None else crop_timesteps


def window_signal(config: LoopConfig, signal: Signal) -> Signal:
    """Return the shape of the model's input: the record's signal, as long as one window."""
    return replace(signal, n_timesteps=window_timesteps(config, signal))


def window_starts(config: LoopConfig, length_B: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Return where the windows of each evaluated record start, given the records' timesteps.

    They lie `window_stride` apart (default: half a window); the last one ends with the record, so that no timestep is
    left out and no window holds padding. A record shorter than a window has one, padded.
    """
    if not isinstance(config, TrainConfig) or config.crop_timesteps is None:
        return [np.zeros(1, np.int64)] * len(length_B)
    stride = config.window_stride or max(1, config.crop_timesteps // 2)
    last_B = np.maximum(0, length_B.astype(np.int64) - config.crop_timesteps)
    return [np.append(np.arange(0, last, stride), last) for last in last_B]


def tile(batch: Batch, config: TrainConfig) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield the first window of every record, the second of those that have two, and so on: (row_R, ecg_RLT)."""
    if config.crop_timesteps is None:
        yield np.arange(len(batch.index_B)), batch.ecg_BLT
        return
    starts = window_starts(config, batch.length_B)
    for number in range(max(map(len, starts), default=0)):
        row_R = np.array([row for row, start_W in enumerate(starts) if number < len(start_W)])
        windows = [
            batch.ecg_BLT[row, :, starts[row][number] : starts[row][number] + config.crop_timesteps] for row in row_R
        ]
        yield row_R, np.stack(windows)


def count_windows(n_timesteps: int, window: int, stride: int) -> int:
    """Return the windows of the longest record."""
    return max(0, math.ceil((n_timesteps - window) / stride)) + 1


def cut_windows(
    ecg_BLT: Tensor, length_B1: Tensor, window: int, stride: int, n_windows: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return every record's windows, where they start, and which of them it has: as `window_starts`, in one graph.

    Args:
        length_B1: timesteps before the padding.
        n_windows: of the longest record; shorter ones repeat their last.

    Returns:
        window_BWLT, start_BW, is_there_BW.
    """
    n_leads = ecg_BLT.shape[1]
    last_B1 = (length_B1 - window).clamp(min=0)
    regular_W = torch.arange(n_windows, device=ecg_BLT.device) * stride
    start_BW = torch.minimum(regular_W, last_B1)
    is_there_BW = regular_W < last_B1 + stride  # a record's windows end with the first that reaches its end
    index_BWT = start_BW[:, :, None] + torch.arange(window, device=ecg_BLT.device)
    index_BLS = index_BWT.reshape(-1, 1, n_windows * window).expand(-1, n_leads, -1)
    window_BLWT = torch.gather(ecg_BLT, 2, index_BLS).reshape(-1, n_leads, n_windows, window)
    return window_BLWT.transpose(1, 2), start_BW, is_there_BW
