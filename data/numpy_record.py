"""Reading one record from a NumPy file (`.npy`): leads x timesteps, in mV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data.record_reader import UNREADABLE, RawRecord

TRANSPOSED = (
    "it is transposed: its shape {shape} is timesteps x leads, but leads x timesteps is needed; "
    "save it anew: np.save(path, np.load(path).T)"
)


def read_npy(path: str, lead_names: tuple[str, ...], fs_hz: float) -> RawRecord:
    """Read the array at `path`: one row a lead. A single lead may also come as an array of one dimension.

    Raises:
        ValueError: there is no such array, it has other leads, or it is transposed.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path} is not on disk") from None
    except UNREADABLE as error:
        raise ValueError(f"can't be read as a .npy array ({error}); write it anew with np.save") from None
    ecg_LT = array[np.newaxis] if array.ndim == 1 and len(lead_names) == 1 else array
    if is_transposed(ecg_LT.shape, len(lead_names)):
        raise ValueError(TRANSPOSED.format(shape=array.shape))
    return RawRecord(ecg_LT, fs_hz, lead_names)


def is_transposed(shape: Sequence[int], n_leads: int) -> bool:
    """Tell whether an array has its leads in the second place."""
    return len(shape) == 2 and shape[1] == n_leads != shape[0]


def check_not_all_transposed(paths: Iterable[Path], n_leads: int, source: str) -> None:
    """Look at the arrays' shapes, until one is not transposed: of a good set, at one.

    Raises:
        ValueError: all that can be read are transposed.
    """
    found = None
    for path in paths:
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except UNREADABLE:
            continue  # is quarantined when its signal is read
        if not is_transposed(shape, n_leads):
            return
        found = found or (path, shape)
    if found:
        raise ValueError(
            f"{source}: every array is transposed; of {found[0].name}: {TRANSPOSED.format(shape=found[1])}"
        )
