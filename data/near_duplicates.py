"""Records that are almost the same as a record of another split: a leak where patients are unknown.

N: held-out records, M: training records, D: values of a record, leads and timesteps in one row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MIN_CORRELATION = 0.99
BLOCK_ROWS = 2048


def near_duplicates(held_ND: Floats, train_MD: Floats, min_correlation: float = MIN_CORRELATION) -> NDArray[np.bool_]:
    """Return which held-out records correlate by `min_correlation` or more with one training record at least.

    Timestep by timestep: scale and offset do not matter, a shift does, so what is found is a lower bound of what is
    alike. Constant records match nothing. Costs N x M x D multiplications.
    """
    if held_ND.shape[1:] != train_MD.shape[1:]:
        raise ValueError(f"records must be equally long, but got {held_ND.shape[1]} and {train_MD.shape[1]} values")
    train_MD, highest_N = _unit_rows(train_MD), np.full(len(held_ND), -1.0, np.float32)
    for start in range(0, len(held_ND), BLOCK_ROWS):
        block_BD = _unit_rows(held_ND[start : start + BLOCK_ROWS])
        for first in range(0, len(train_MD), BLOCK_ROWS):
            correlation_BC = block_BD @ train_MD[first : first + BLOCK_ROWS].T
            rows = slice(start, start + len(block_BD))
            highest_N[rows] = np.maximum(highest_N[rows], correlation_BC.max(axis=1))
    return np.asarray(highest_N >= min_correlation)


def _unit_rows(rows_ND: Floats) -> Floats:
    """Return rows with mean 0 and length 1; constant ones become 0."""
    centred_ND = rows_ND - rows_ND.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    length_N1 = np.linalg.norm(centred_ND, axis=1, keepdims=True)
    return np.asarray(np.divide(centred_ND, length_N1, out=np.zeros_like(centred_ND), where=length_N1 > 1e-6))
