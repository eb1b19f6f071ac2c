"""A shard as an HDF5 file: datasets `ecg`, `length`, `labels/<set>`, `record_id`, `patient_id`, `fold`, `meta/<name>`.

`ecg` is contiguous in record order, uncompressed: of all formats in docs/benchmarks.md the fastest to read, in pieces
as streaming does, and as fast as any for single rows. gzip takes 0.4 of its space and is 20 times slower.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from data.reader import RecordBlock, RecordTable

SUFFIX = ".h5"
ERRORS = (OSError, KeyError)
"""What h5py raises on a file that is damaged or no shard."""


def write(path: Path, block: RecordBlock, dtype: str) -> None:
    """Write `block` to `path`, its signal as `dtype`. Equal blocks give equal bytes."""
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.create_dataset("ecg", data=block.ecg_NLT.astype(dtype, copy=False))
        file.create_dataset("length", data=block.length_N)
        for name, labels_NK in block.labels.items():
            file.create_dataset(f"labels/{name}", data=labels_NK)
        file.create_dataset("record_id", data=np.strings.encode(block.record_ids, "utf-8"))
        file.create_dataset("patient_id", data=np.strings.encode(block.patient_ids, "utf-8"))
        file.create_dataset("fold", data=block.folds)
        for name, values_N in block.meta.items():
            file.create_dataset(f"meta/{name}", data=values_N)


def read_table(path: Path) -> RecordTable:
    """Read everything of a shard but its signal."""
    with h5py.File(path, "r") as file:
        return RecordTable(
            length_N=file["length"][:],
            labels={name: file["labels"][name][:] for name in file["labels"]} if "labels" in file else {},
            record_ids=np.strings.decode(file["record_id"][:], "utf-8"),
            patient_ids=np.strings.decode(file["patient_id"][:], "utf-8"),
            folds=file["fold"][:],
            meta={name: file["meta"][name][:] for name in file["meta"]} if "meta" in file else {},
        )


def read_ecg(path: Path, rows: slice) -> NDArray[np.float32]:
    """Read ecg_NLT of consecutive records."""
    with h5py.File(path, "r") as file:
        return np.asarray(file["ecg"][rows], np.float32)
