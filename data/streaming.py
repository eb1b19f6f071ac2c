"""A split that streams from the shards, for data that does not fit in memory.

An epoch is cut into pieces of consecutive records of one shard, and shuffled in two steps. The pieces are dealt to
windows like cards: of every W consecutive pieces, each of the W windows gets one. So a window has pieces from all over
the store, and of each shard no more than its share, even where the store is sorted by label. Then the records of a
window are mixed. The disk sees sequential reads of some megabytes, and every record comes exactly once, in an order
that depends on the seed alone.

While the trial works on one window, a thread reads and preprocesses the next; a rank preprocesses only its own records.
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
from data.preprocessing import output_lengths
from data.scaling import Statistics
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
        self._pieces = cut_pieces(selection.shard_N, selection.row_N, size)

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
        windows = self._read_ahead([epoch.order_N[own_M[a:b]] for a, b in pairwise(bounds)])
        window = None
        for each in slices:
            index_B = epoch.order_N[each].copy()
            ecg_BLT, n_filled = self._empty(len(index_B)), 0
            while n_filled < len(index_B):
                window = next(windows) if window is None or window.is_given else window
                n_filled += window.give(ecg_BLT[n_filled:])
            yield Batch(
                ecg_BLT=ecg_BLT,
                labels_BK=np.take(self.labels_NK, index_B, axis=0),
                index_B=index_B,
                length_B=np.take(self._length_N, index_B),
            )

    def _read_ahead(self, orders: Sequence[NDArray[np.int64]]) -> Iterator[_Window]:
        """Yield a window for each order, while the next one is read in a thread.

        Two buffers take turns, as fresh memory costs as much as reading does: a window is good until the next one.
        """
        n_largest = max(map(len, orders), default=0)
        buffers = [self._empty(n_largest) for _ in orders[:2]]
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as reader:
            coming = [reader.submit(self._read_window, order, buffers[0]) for order in orders[:1]]
            for number in range(1, len(orders) + 1):
                window = coming.pop().result()
                if number < len(orders):
                    coming.append(reader.submit(self._read_window, orders[number], buffers[number % 2]))
                yield window

    def _read_window(self, order_R: NDArray[np.int64], buffer_RLT: NDArray[np.float32]) -> _Window:
        position_R, place_R = np.unique(order_R, return_inverse=True)
        for start, stop in _runs(position_R, self._pieces):
            self._read(position_R[start:stop], buffer_RLT[start:stop])
        return _Window(buffer_RLT, place_R)

    def _read(self, position_R: NDArray[np.int64], out_RLT: NDArray[np.float32]) -> None:
        """Read records of one piece, by ascending position."""
        shard = int(self._selection.shard_N[position_R[0]])
        rows, lengths = self._selection.row_N[position_R], self._selection.length_N[position_R]
        out_RLT[:] = decode(self._plan, shard, rows, lengths, self._selection.sums_N[position_R])
        if self._statistics is not None:
            self._statistics.standardise(out_RLT, self._length_N[position_R])

    def _empty(self, n_records: int) -> NDArray[np.float32]:
        signal = self._plan.signal
        return np.empty((n_records, len(signal.lead_names), signal.n_timesteps), np.float32)


@dataclass
class _Window:
    """Records in the order of the store, which are given out in the order of the epoch."""

    ecg_RLT: NDArray[np.float32]
    place_R: NDArray[np.intp]
    n_given: int = 0

    @property
    def is_given(self) -> bool:
        return self.n_given == len(self.place_R)

    def give(self, out_BLT: NDArray[np.float32]) -> int:
        """Copy the next records to `out_BLT`, as many as it takes and there are, and return their number."""
        place_B = self.place_R[self.n_given : self.n_given + len(out_BLT)]
        # Any mode but "raise", which would copy twice; places are valid by construction.
        np.take(self.ecg_RLT, place_B, axis=0, out=out_BLT[: len(place_B)], mode="clip")
        self.n_given += len(place_B)
        return len(place_B)


def cut_pieces(shard_N: NDArray[np.int64], row_N: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the bounds of pieces of consecutive positions, each within `size` rows of one shard.

    A piece is read from its first to its last row, so it is bounded by the rows and not by the records in it: of a
    store of which a tenth is selected, pieces have a tenth of the records.
    """
    block_N = row_N // size
    is_first_N = np.r_[True, (np.diff(shard_N) != 0) | (np.diff(block_N) != 0)][: len(shard_N)]
    return np.append(np.flatnonzero(is_first_N), len(shard_N))


def epoch_order(pieces: NDArray[np.int64], shuffle_seed: int | None) -> EpochOrder:
    """Order an epoch's records, given the bounds of its pieces."""
    rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
    n_pieces = len(pieces) - 1
    n_windows = -(-n_pieces // WINDOW_PIECES)
    if rng is None:
        windows = np.array_split(np.arange(n_pieces), max(1, n_windows))
    else:
        window_of = deal(n_pieces, n_windows, rng)
        windows = [np.flatnonzero(window_of == window) for window in range(n_windows)]
    orders = [_positions(pieces, window) for window in windows]
    if rng is not None:
        orders = [rng.permutation(order) for order in orders]
    order_N = np.concatenate([np.empty(0, np.int64), *orders])
    return EpochOrder(order_N, tuple(np.cumsum([len(order) for order in orders]).tolist()))


def deal(n_pieces: int, n_windows: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the window of each piece: of every `n_windows` consecutive pieces, each window gets one."""
    n_rounds = -(-n_pieces // max(1, n_windows))
    rounds = np.tile(np.arange(n_windows), (n_rounds, 1))
    return rng.permuted(rounds, axis=1).reshape(-1)[:n_pieces]


def _positions(pieces: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *(np.arange(pieces[n], pieces[n + 1]) for n in numbers)])


def _runs(position_R: NDArray[np.int64], pieces: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of runs of ascending positions that lie in one piece."""
    piece_R = np.searchsorted(pieces, position_R, side="right")
    bounds = [0, *(np.flatnonzero(np.diff(piece_R)) + 1).tolist(), len(position_R)]
    yield from ((start, stop) for start, stop in pairwise(bounds) if stop > start)
