"""A trained model's answers on records of any length, prepared as its training records were.

N: records, P: pieces of records, K: outputs, L: leads, T: timesteps, W: pieces of one record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.card import DataCard
from data.dataset import Signal
from data.memory import MemorySplit
from data.preprocessing import Step, output_lengths, preprocess
from data.scaling import Statistics
from trainables.config import TrainConfig
from trainables.evaluation import pool_windows, predict
from trainables.metrics import Floats, probabilities


class Pieces(NamedTuple):
    """Records cut to the length of a store's: row by row of `ecg_PLT`, zero from `length_P` on."""

    ecg_PLT: NDArray[np.float32]
    length_P: NDArray[np.int32]
    n_pieces_N: NDArray[np.int64]
    start_P: NDArray[np.int64]  # in the record


@dataclass(frozen=True)
class Predictor:
    """Applies `network` as its training did.

    Attributes:
        network: ecg_BLT, preprocessed windows, -> logits_BK.
    """

    network: nn.Module
    config: TrainConfig
    data: DataCard

    def predict(self, records: Sequence[NDArray[np.float32]], batch_size: int = 64) -> Floats:
        """Return probabilities_NK, or values_NK in the targets' units.

        A record longer than the training records is cut into pieces of their length, which overlap by half and the
        last of which ends with the record. Each piece is prepared and answered as a record of its own; the pieces are
        pooled as windows are, by `window_pooling` (regression: the mean).

        Args:
            records: ecg_LT in mV, of the leads and the rate of `data.input_signal`.
        """
        pieces = cut(records, self.data.input_signal)
        split = self.prepare(pieces)
        logits_PK = predict(self.network, split, self.config, self.data.label_set, batch_size=batch_size)
        return probabilities(self._pool(logits_PK, pieces.n_pieces_N), self.data.label_set.task)

    def prepare(self, pieces: Pieces) -> MemorySplit:
        """Preprocess pieces; their labels are not known."""
        data = self.data
        ecg_PLT = preprocess_with(data.preprocess, data.statistics, pieces.ecg_PLT, data.input_signal, pieces.length_P)
        length_P = output_lengths(data.preprocess, data.input_signal, pieces.length_P)
        n_pieces = len(length_P)
        n_columns = 1 if data.label_set.task == "multiclass" else data.label_set.n_outputs
        ids = np.arange(n_pieces).astype(np.str_)
        return MemorySplit(ecg_PLT, length_P, np.full((n_pieces, n_columns), np.nan, np.float32), ids, ids)

    def _pool(self, logits_PK: NDArray[np.float32], n_pieces_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Pool the pieces of each record; returns logits_NK."""
        if len(logits_PK) == len(n_pieces_N):
            return logits_PK
        ends = np.cumsum(n_pieces_N)
        logits_WNK = np.zeros((int(n_pieces_N.max()), len(n_pieces_N), logits_PK.shape[1]), np.float32)
        for row, (end, number) in enumerate(zip(ends, n_pieces_N, strict=True)):
            logits_WNK[:number, row] = logits_PK[end - number : end]
        pooled = pool_windows(
            torch.from_numpy(logits_WNK),
            torch.from_numpy(n_pieces_N),
            self.data.label_set.task,
            self.config.window_pooling,
        )
        return pooled.numpy()


def preprocess_with(
    steps: Sequence[Step],
    statistics: Statistics | None,
    ecg_NLT: NDArray[np.float32],
    signal: Signal,
    length_N: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Apply a whole chain, `zscore: {per: global}` with its `statistics` included."""
    done_NLT = preprocess(ecg_NLT, steps, signal, length_N)
    if statistics is not None:
        statistics.standardise(done_NLT, output_lengths(steps, signal, length_N))
    return done_NLT


def cut(records: Sequence[NDArray[np.float32]], signal: Signal) -> Pieces:
    """Cut records to pieces of `signal.n_timesteps`; a shorter record is one piece, padded with zeros."""
    n_timesteps = signal.n_timesteps
    starts = [_starts(ecg_LT.shape[1], n_timesteps) for ecg_LT in records]
    n_pieces_N = np.array([len(start_W) for start_W in starts], np.int64)
    ecg_PLT = np.zeros((int(n_pieces_N.sum()), len(signal.lead_names), n_timesteps), np.float32)
    lengths, piece = [], 0
    for ecg_LT, start_W in zip(records, starts, strict=True):
        for start in start_W:
            part_LT = ecg_LT[:, start : start + n_timesteps]
            ecg_PLT[piece, :, : part_LT.shape[1]] = part_LT
            lengths.append(part_LT.shape[1])
            piece += 1
    return Pieces(ecg_PLT, np.array(lengths, np.int32), n_pieces_N, np.concatenate(starts))


def _starts(length: int, n_timesteps: int) -> NDArray[np.int64]:
    last = max(0, length - n_timesteps)
    return np.append(np.arange(0, last, max(1, n_timesteps // 2)), last).astype(np.int64)
