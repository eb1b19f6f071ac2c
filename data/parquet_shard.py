"""A shard as a Parquet file, one record a row.

Columns are `ecg`, `length`, `labels/<set>`, `record_id`, `patient_id`, `fold` and `meta/<name>`. `ecg` is a
fixed-size list of leads x timesteps numbers; the schema's metadata has `n_leads`. zstd, as a store in Parquet is for
size and for other tools: docs/benchmarks.md has the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.reader import RecordBlock, RecordTable

SUFFIX = ".parquet"
ERRORS = (OSError, KeyError, pa.ArrowException)
"""What pyarrow raises on a file that is damaged or no shard."""

ROW_GROUP_RECORDS = 16  # what a read of one row has to decode; files of larger groups are no smaller, and slower


def write(path: Path, block: RecordBlock, dtype: str) -> None:
    """Write `block` to `path`, its signal as `dtype`. Equal blocks give equal bytes."""
    columns: dict[str, Any] = {"ecg": _rows(block.ecg_NLT.astype(dtype, copy=False)), "length": block.length_N}
    columns |= {f"labels/{name}": _rows(labels_NK) for name, labels_NK in block.labels.items()}
    columns |= {"record_id": block.record_ids, "patient_id": block.patient_ids, "fold": block.folds}
    columns |= {f"meta/{name}": values_N for name, values_N in block.meta.items()}
    table = pa.table(columns).replace_schema_metadata({"n_leads": str(block.ecg_NLT.shape[1])})
    # Statistics and dictionaries of raw signal cost time and space, and help no reader.
    pq.write_table(
        table, path, row_group_size=ROW_GROUP_RECORDS, compression="zstd", use_dictionary=False, write_statistics=False
    )


def read_table(path: Path) -> RecordTable:
    """Read everything of a shard but its signal."""
    names = [name for name in pq.read_schema(path).names if name != "ecg"]
    with pq.ParquetFile(path) as file:
        table = file.read(columns=[*names], use_threads=False)
    return RecordTable(
        length_N=table["length"].to_numpy().astype(np.int32),
        labels={name.removeprefix("labels/"): _matrix(table[name]) for name in names if name.startswith("labels/")},
        record_ids=_strings(table["record_id"]),
        patient_ids=_strings(table["patient_id"]),
        folds=table["fold"].to_numpy().astype(np.int16),
        meta={
            name.removeprefix("meta/"): table[name].to_numpy().astype(np.float32)
            for name in names
            if name.startswith("meta/")
        },
    )


def read_ecg(path: Path, rows: slice) -> NDArray[np.float32]:
    """Read ecg_NLT of consecutive records; only the row groups that hold them are decoded."""
    with pq.ParquetFile(path) as file:
        start, stop, _ = rows.indices(file.metadata.num_rows)
        n_leads = int(file.schema_arrow.metadata[b"n_leads"])
        group_records = file.metadata.row_group(0).num_rows if file.metadata.num_row_groups else 1
        first = start // group_records
        groups = range(first, max(first, -(-stop // group_records)))
        column = file.read_row_groups([*groups], columns=["ecg"], use_threads=False)["ecg"]
    skipped = first * group_records
    values = _matrix(column)[start - skipped : stop - skipped]
    return values.reshape(len(values), n_leads, -1) if len(values) else np.empty((0, n_leads, 0), np.float32)


def _rows(values: NDArray[Any]) -> pa.FixedSizeListArray:
    """Return one list a record, over the same memory."""
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), width)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of fixed-size lists as one row a record."""
    width = column.type.list_size
    parts = [np.asarray(chunk.flatten(), np.float32).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty((0, width), np.float32)


def _strings(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.array(column.to_pylist(), dtype=np.str_)
