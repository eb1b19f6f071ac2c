"""A split that streams from the shards, for data that does not fit in memory.

An epoch is cut into pieces of consecutive records of one shard. Shuffled, the pieces come in random order, several of
them make a window, and the records of a window are mixed: so the disk sees sequential reads of some megabytes, and
every record comes exactly once. The order depends on the seed alone. While the trial works on one window, a thread
reads and preprocesses the next; a rank preprocesses only its own records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.dataset import Batch
from data.order import rank_slices
from data.preprocess import Statistics, output_lengths
from data.selection import Plan, Selection, decode

PIECE_BYTES = 4 * 1024**2
WINDOW_PIECES = 32  # 128 MiB of signal: two windows are in memory at a time


@dataclass(frozen=True)
class EpochOrder:
    """The positions of an epoch's records, and where each window ends in that order."""

    order_N: NDArray[np.int64]
    window_ends: tuple[int, ...]


class StreamedSplit:
    """A `data.dataset.Split` that reads the shards anew in every epoch."""

    def __init__(self, plan: Plan, selection: Selection, statistics: Statistics | None = None) -> None:
        self._plan, self._selection, self._statistics = plan, selection, statistics
        self._length_N = output_lengths(plan.steps, plan.stored_signal, selection.length_N)
        signal = plan.stored_signal
        size = max(1, PIECE_BYTES // (len(signal.lead_names) * signal.n_timesteps * 4))
        self._pieces = cut_pieces(selection.shard_N, size)

    @property
    def n_records(self) -> int:
        return len(self._selection)

    @property
    def length_N(self) -> NDArray[np.int32]:
        return self._length_N

    @property
    def labels_NK(self) -> NDArray[np.float32]:
        return self._selection.labels_NK

    @property
    def record_ids(self) -> NDArray[np.str_]:
        return self._selection.record_ids

    @property
    def patient_ids(self) -> NDArray[np.str_]:
        return self._selection.patient_ids

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield this rank's slice of each global batch; see `data.dataset.Split.batches`."""
        epoch = epoch_order(self._pieces, shuffle_seed)
        slices = list(rank_slices(self.n_records, batch_size, rank, world_size))
        own_M = np.concatenate([np.arange(each.start, each.stop) for each in slices] or [np.empty(0, np.int64)])
        bounds = np.searchsorted(own_M, [0, *epoch.window_ends])
        windows = [epoch.order_N[own_M[a:b]] for a, b in pairwise(bounds)]
        signals = self._read_ahead(windows)
        pending_RLT = self._decode(np.empty(0, np.int64))
        for each in slices:
            index_B = epoch.order_N[each].copy()
            while len(pending_RLT) < len(index_B):
                pending_RLT = np.concatenate([pending_RLT, next(signals)])
            ecg_BLT, pending_RLT = pending_RLT[: len(index_B)].copy(), pending_RLT[len(index_B) :]
            yield Batch(ecg_BLT, np.take(self.labels_NK, index_B, axis=0), index_B, np.take(self._length_N, index_B))

    def _read_ahead(self, windows: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
        """Yield the signal of each window, while the next one is read in a thread."""
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as reader:
            coming = None
            for window in windows:
                ready, coming = coming, reader.submit(self._decode, window)
                if ready is not None:
                    yield ready.result()
            if coming is not None:
                yield coming.result()

    def _decode(self, position_R: NDArray[np.int64]) -> NDArray[np.float32]:
        """Read records by position, each shard's pieces in ascending order."""
        signal = self._plan.signal
        ecg_RLT = np.empty((len(position_R), len(signal.lead_names), signal.n_timesteps), np.float32)
        by_place = np.argsort(position_R, kind="stable")
        for start, stop in _runs(position_R[by_place], self._pieces):
            target_R = by_place[start:stop]
            records = position_R[target_R]
            shard = int(self._selection.shard_N[records[0]])
            ecg_RLT[target_R] = decode(
                self._plan, shard, self._selection.row_N[records], self._selection.length_N[records]
            )
        if self._statistics is not None:
            self._statistics.standardise(ecg_RLT, self._length_N[position_R])
        return ecg_RLT


def cut_pieces(shard_N: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the bounds of pieces of at most `size` consecutive positions, none of which spans two shards."""
    shard_bounds = [0, *(np.flatnonzero(np.diff(shard_N)) + 1).tolist(), len(shard_N)]
    starts = [start for first, last in pairwise(shard_bounds) for start in range(first, last, size)]
    return np.array([*starts, len(shard_N)], np.int64)


def epoch_order(pieces: NDArray[np.int64], shuffle_seed: int | None) -> EpochOrder:
    """Order an epoch's records, given the bounds of its pieces."""
    rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
    n_pieces = len(pieces) - 1
    numbers = np.arange(n_pieces) if rng is None else rng.permutation(n_pieces)
    windows = []
    for start in range(0, n_pieces, WINDOW_PIECES):
        window = np.concatenate(
            [np.arange(pieces[piece], pieces[piece + 1]) for piece in numbers[start : start + WINDOW_PIECES]]
        )
        windows.append(window if rng is None else rng.permutation(window))
    order_N = np.concatenate(windows) if windows else np.empty(0, np.int64)
    return EpochOrder(order_N, tuple(np.cumsum([len(window) for window in windows]).tolist()))


def _runs(position_R: NDArray[np.int64], pieces: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs of ascending positions that lie in one piece."""
    piece_R = np.searchsorted(pieces, position_R, side="right")
    bounds = [0, *(np.flatnonzero(np.diff(piece_R)) + 1).tolist(), len(position_R)]
    yield from ((start, stop) for start, stop in pairwise(bounds) if stop > start)
