"""The order in which a split gives its records, and each rank's share of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray


def record_order(n_records: int, shuffle_seed: int | None) -> NDArray[np.int64]:
    """Return the positions of an epoch's records: as stored, or shuffled by the seed alone."""
    if shuffle_seed is None:
        return np.arange(n_records)
    return np.random.default_rng(shuffle_seed).permutation(n_records)


def rank_rows(
    n_records: int, batch_size: int, shuffle_seed: int | None, rank: int, world_size: int
) -> Iterator[NDArray[np.int64]]:
    """Yield, for each global batch, the positions of this rank's records: index_B, a copy that a batch may keep.

    Raises:
        ValueError: as `rank_slices`.
    """
    order_N = record_order(n_records, shuffle_seed)
    for place in rank_slices(n_records, batch_size, rank, world_size):
        yield order_N[place].copy()


def rank_slices(n_records: int, batch_size: int, rank: int, world_size: int) -> Iterator[slice]:
    """Yield, for each global batch, where this rank's slice of it lies in the order.

    Slices of one batch differ by at most one record, the first ranks' being longer, and may be empty.

    Raises:
        ValueError: `batch_size` is below one, or `rank` is not below `world_size`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size >= 1` must hold, but got {batch_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"`0 <= rank < world_size` must hold, but got {rank=}, {world_size=}")
    for start in range(0, n_records, batch_size):
        size, longer = divmod(min(batch_size, n_records - start), world_size)
        first = start + rank * size + min(rank, longer)
        yield slice(first, first + size + (rank < longer))
