"""Which timesteps an answer rests on: integrated gradients (Sundararajan et al., ICML 2017), by captum.

    attribution_LT = (x - baseline) * mean over a from 0 to 1 of the gradient of f at baseline + a (x - baseline)

The baseline is zero in the preprocessed signal: no signal. f is the logit of one output, or its value in units.
L: leads, T: timesteps, W: windows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.card import DataCard
from data.dataset import Batch
from data.preprocessing import without_padding
from trainables.predictor import Predictor, cut
from trainables.windows import tile, window_starts

STEPS = 32  # of the integral
BATCH_WINDOWS = 16  # that go through the network at a time, with their gradients
SMOOTHED_S = 0.04  # about half a QRS complex: attributions of single timesteps alternate in sign


def saliency(predictor: Predictor, ecg_LT: NDArray[np.float32], output: int) -> NDArray[np.float64]:
    """Return how much each timestep of a record weighs, 0 to 1, in the record's own time.

    Absolute attributions are summed over leads, averaged where windows overlap, and smoothed over 40 ms.

    Args:
        ecg_LT: in mV, of the leads and the rate of `predictor.data.input_signal`.
        output: number of the label.
    """
    data, n_timesteps = predictor.data, ecg_LT.shape[1]
    pieces = cut([ecg_LT], data.input_signal)
    (batch,) = predictor.prepare(pieces).batches(len(pieces.length_P))
    total_T, count_T = np.zeros(n_timesteps), np.zeros(n_timesteps)
    weights = _piece_weights(predictor, batch, output)
    for weight_T, start, length in zip(weights, pieces.start_P.tolist(), pieces.length_P.tolist(), strict=True):
        total_T[start : start + length] += _in_record_time(weight_T, data, length)
        count_T[start : start + length] += 1
    mean_T = _smooth(total_T / count_T, data.input_signal.fs_hz)
    largest = float(mean_T.max())
    return mean_T / largest if largest > 0 else mean_T


def attribute(network: nn.Module, ecg_BLT: NDArray[np.float32], output: int) -> NDArray[np.float32]:
    """Return attribution_BLT of one output; over a record they sum to f(x) - f(0), up to the integral's error."""
    from captum.attr import IntegratedGradients  # takes a second: only who draws pays

    method = IntegratedGradients(network.eval(), multiply_by_inputs=True)
    inputs_BLT = torch.from_numpy(ecg_BLT).requires_grad_()
    attribution_BLT = method.attribute(
        inputs_BLT, target=output, n_steps=STEPS, internal_batch_size=max(BATCH_WINDOWS, len(ecg_BLT))
    )
    done_BLT: NDArray[np.float32] = attribution_BLT.detach().numpy().astype(np.float32)
    return done_BLT


def _piece_weights(predictor: Predictor, batch: Batch, output: int) -> list[NDArray[np.float64]]:
    """Return, for each piece, the weight of its preprocessed timesteps without padding."""
    n_pieces, _, n_timesteps = batch.ecg_BLT.shape
    total_PT, count_PT = np.zeros((n_pieces, n_timesteps)), np.zeros((n_pieces, n_timesteps))
    starts = window_starts(predictor.config, batch.length_B)
    for number, (row_R, ecg_RLT) in enumerate(tile(batch, predictor.config)):
        weight_RT = np.abs(attribute(predictor.network, ecg_RLT, output)).sum(axis=1)
        for row, weight_T in zip(row_R, weight_RT, strict=True):
            window = slice(starts[row][number], starts[row][number] + len(weight_T))
            total_PT[row, window] += weight_T
            count_PT[row, window] += 1
    mean_PT = total_PT / np.maximum(count_PT, 1)
    return [mean_T[:length] for mean_T, length in zip(mean_PT, batch.length_B, strict=True)]


def _in_record_time(weight_T: NDArray[np.float64], data: DataCard, length: int) -> NDArray[np.float64]:
    """Bring a piece's weights to its timesteps before preprocessing; what a crop left out weighs nothing."""
    signal, offset_s = replace(data.input_signal, n_timesteps=length), 0.0
    for step in data.preprocess:
        if step.crop_or_pad is not None and step.crop_or_pad.keep == "centre":
            offset_s += max(0, signal.n_timesteps - step.crop_or_pad.n_timesteps) // 2 / signal.fs_hz
        signal = without_padding(step, signal)
    known_s = offset_s + np.arange(len(weight_T)) / signal.fs_hz
    own_s = np.arange(length) / data.input_signal.fs_hz
    return np.where(own_s < known_s[-1] + 1 / signal.fs_hz, np.interp(own_s, known_s, weight_T, left=0), 0)


def _smooth(weight_T: NDArray[np.float64], fs_hz: float) -> NDArray[np.float64]:
    width = min(len(weight_T), max(1, round(SMOOTHED_S * fs_hz)))
    return np.convolve(weight_T, np.full(width, 1 / width), mode="same")
