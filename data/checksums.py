"""Checksums of single records, for shards that are read again long after they were verified as a whole.

The sum of a record's 32-bit words changes with any one flipped bit, and where a piece was zeroed or overwritten. It
costs a pass over memory, several times faster than reading; the shard's sha256 stays the proof against malice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNKNOWN = 0
"""The checksum of a record of which none was taken."""


def checksums(ecg_NLT: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Return the checksum of each record, never `UNKNOWN`: one more than the sum (of fewer than 2^32 words)."""
    words_NW = np.ascontiguousarray(ecg_NLT, np.float32).view(np.uint32).reshape(len(ecg_NLT), -1)
    sums_N: NDArray[np.uint64] = words_NW.sum(axis=1, dtype=np.uint64) + np.uint64(1)
    return sums_N


def changed_records(ecg_NLT: NDArray[np.float32], sums_N: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the positions of the records that are not what they were when `sums_N` was taken."""
    return np.flatnonzero((sums_N != UNKNOWN) & (checksums(ecg_NLT) != sums_N))
