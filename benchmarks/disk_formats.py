"""Size and speed of ways to keep signals on disk: `python -m benchmarks.disk_formats SOURCE`.

SOURCE is a folder of PTB-XL as published. Its records at 100 Hz (12 leads x 1,000 timesteps, 48,000 bytes each in
float32) are written in each format, and read from a warm page cache in float32: all at once; in pieces of 4 MiB, as
streaming does; and one by one at random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.kinds.ptbxl import PtbxlConfig, build_reader
from data.leads import LEADS_12
from data.parquet_shard import ROW_GROUP_RECORDS
from data.reader import RecordBlock, join_blocks
from data.streaming import PIECE_BYTES

N_SINGLE: Final = 100
SHIPPED: Final = ("HDF5 contiguous", "Parquet zstd")  # `--format hdf5` and `--format parquet`
LEAST_OF_BEST: Final = 0.5  # of the fastest format's speed in pieces: the default is not far from it

Ecg = NDArray[Any]
ReadRows = Callable[[Path, slice], Ecg]


@dataclass(frozen=True)
class DiskFormat:
    """A way to write ecg_NLT, and to read consecutive rows of it."""

    name: str
    write: Callable[[Path, Ecg], None]
    read: ReadRows


@dataclass(frozen=True)
class Timed:
    """One repeat of one format."""

    n_bytes: int
    write_s: float
    whole_s: float
    pieces_s: float
    single_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    block = read_records(options.source)
    n_records = len(block.record_ids)
    cases = {f"{each.name}, {dtype}": (each, dtype) for dtype in ("float32", "float16") for each in FORMATS}
    times: dict[str, list[Timed]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory(prefix="disk-formats-", dir=options.folder) as folder:
        for repeat in range(options.repeats):
            for name, (each, dtype) in cases.items():
                times[name].append(measure(each, block.ecg_NLT.astype(dtype), Path(folder) / "file", seed=repeat))
    figures = {name: _figure(name, rows, n_records) for name, rows in times.items()}
    default = figures[f"{SHIPPED[0]}, float32"]
    best = max(figure.median for figure in figures.values())
    share = Figure("the default / the fastest", "", tuple(value / best for value in default.values), "in pieces")
    title = f"{n_records:,} records of PTB-XL at 100 Hz: read in pieces of {PIECE_BYTES // 2**20} MiB"
    result = Result(title, machine, (*figures.values(), share), (Bar(share, ">=", LEAST_OF_BEST),))
    return conclude(result, options)


def read_records(source: Path) -> RecordBlock:
    """Read all records of a PTB-XL folder."""
    reader = build_reader(PtbxlConfig(source=str(source), skip_missing=True))
    return join_blocks([reader.read(chunk) for chunk in reader.chunks()])


def measure(each: DiskFormat, ecg_NLT: Ecg, path: Path, seed: int) -> Timed:
    """Write and read the records once, and check what comes back."""
    path.unlink(missing_ok=True)
    write_s, _ = _timed(partial(each.write, path, ecg_NLT))
    n_records, piece = len(ecg_NLT), max(1, PIECE_BYTES // (ecg_NLT[0].size * 4))
    pieces = [slice(start, min(start + piece, n_records)) for start in range(0, n_records, piece)]
    rows = np.random.default_rng(seed).integers(0, n_records, N_SINGLE).tolist()
    whole_s, whole_NLT = _timed(lambda: each.read(path, slice(0, n_records)).astype(np.float32, copy=False))
    np.testing.assert_array_equal(whole_NLT, ecg_NLT.astype(np.float32))
    pieces_s, _ = _timed(lambda: [each.read(path, rows).astype(np.float32, copy=False) for rows in pieces])
    single_s, _ = _timed(lambda: [each.read(path, slice(row, row + 1)).astype(np.float32) for row in rows])
    return Timed(path.stat().st_size, write_s, whole_s, pieces_s, single_s / N_SINGLE)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    begin_s = time.perf_counter()
    returned = run()
    return time.perf_counter() - begin_s, returned


def _figure(name: str, rows: Sequence[Timed], n_records: int) -> Figure:
    """Return records/s in pieces, with what else was measured as its note."""
    median = np.median([[each.write_s, each.whole_s, each.single_s] for each in rows], axis=0)
    note = (
        f"{rows[0].n_bytes / n_records / 1000:5.1f} kB a record; all at once {n_records / median[1]:>7,.0f}/s, "
        f"single {1000 * median[2]:.2f} ms, written {n_records / median[0]:>6,.0f}/s"
    )
    return Figure(name, "records/s", tuple(n_records / each.pieces_s for each in rows), note)


# ---------------------------------------------------------------------- formats


def _write_hdf5(path: Path, ecg_NLT: Ecg, options: Mapping[str, Any]) -> None:
    chunked = {"chunks": (options["chunks"], *ecg_NLT.shape[1:])} if "chunks" in options else {}
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("ecg", data=ecg_NLT, **{**options, **chunked})


def _read_hdf5(path: Path, rows: slice) -> Ecg:
    with h5py.File(path, "r") as file:
        return np.asarray(file["ecg"][rows])


def _write_parquet(path: Path, ecg_NLT: Ecg, compression: str) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(ecg_NLT.reshape(-1)), ecg_NLT[0].size)
    pq.write_table(
        pa.table({"ecg": column}),
        path,
        row_group_size=ROW_GROUP_RECORDS,
        compression=compression,
        use_dictionary=False,
        write_statistics=False,
    )


def _read_parquet(path: Path, rows: slice) -> Ecg:
    first = rows.start // ROW_GROUP_RECORDS
    with pq.ParquetFile(path) as file:
        groups = range(first, -(-rows.stop // ROW_GROUP_RECORDS))
        column = file.read_row_groups([*groups], columns=["ecg"], use_threads=False)["ecg"]
    values = np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks])
    skipped = first * ROW_GROUP_RECORDS
    return values.reshape(len(column), len(LEADS_12), -1)[rows.start - skipped : rows.stop - skipped]


FORMATS: Final = (
    *(
        DiskFormat(f"HDF5 {name}", partial(_write_hdf5, options=options), _read_hdf5)
        for name, options in (
            ("contiguous", {}),
            ("chunks of 1", {"chunks": 1}),
            ("chunks of 16", {"chunks": 16}),
            ("chunks of 16, lzf", {"chunks": 16, "compression": "lzf"}),
            ("chunks of 16, gzip 4", {"chunks": 16, "compression": "gzip"}),
            ("chunks of 16, shuffle, gzip 4", {"chunks": 16, "compression": "gzip", "shuffle": True}),
            ("chunks of 1, shuffle, lzf", {"chunks": 1, "compression": "lzf", "shuffle": True}),
        )
    ),
    *(
        DiskFormat(f"Parquet {name}", partial(_write_parquet, compression=name), _read_parquet)
        for name in ("none", "snappy", "zstd")
    ),
)


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.disk_formats", description=__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of PTB-XL with records100/")
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="how often each format is written and read (5)")
    parser.add_argument(
        "--folder", type=Path, metavar="DIR", help="where the files are written, on the disk to measure"
    )
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but got {options.repeats}")
    return options


if __name__ == "__main__":
    sys.exit(main())
