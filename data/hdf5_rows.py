"""Reading single records out of HDF5 files that hold one a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

CACHE_BYTES = 64 * 1024**2  # of decompressed chunks, so that none is decompressed again for its next row


class Hdf5Rows:
    """Reads rows of one dataset, and keeps the last file open; a pickled copy opens its own."""

    def __init__(self, dataset: str) -> None:
        self._dataset = dataset
        self._file: h5py.File | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def read(self, path: str, row: int) -> NDArray[Any]:
        """Return one row. On a damaged file, whatever of `data.record_reader.UNREADABLE` h5py raises."""
        if self._file is None or self._file.filename != path:
            self._file = h5py.File(path, "r", rdcc_nbytes=CACHE_BYTES)
        return np.asarray(self._file[self._dataset][row])


def open_hdf5(path: Path, source: str) -> h5py.File:
    """Open a file to read.

    Raises:
        ValueError: it isn't there, or it is no whole HDF5 file; names `source`.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        why = "there is no such file" if not path.is_file() else " ".join(str(error).split())
        raise ValueError(f"{source} can't be read as HDF5 ({why}); check the path, or fetch it anew") from None


def find_dataset(file: h5py.File, name: str, source: str, way_out: str) -> h5py.Dataset:
    """Return a dataset of an open file.

    Raises:
        ValueError: there is none of that name.
    """
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{source} has no dataset {name!r}, only {', '.join(file) or 'none'}; {way_out}")
    return dataset
