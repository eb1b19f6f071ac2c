"""The `df_segment2.csv` layout: one window a row, its signal in mV column by column, then its label 0 or 1.

One pass over the lines finds the labels (folds need them all), the line lengths and where chunks begin; tasks then
parse their chunk with pyarrow. A gzip stream can only be read from its beginning, so each task decompresses what lies
before its chunk (300 to 400 MB/s) and there are few chunks: no second copy of the data is made, on disk or in memory.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv as pa_csv
from pydantic import BaseModel, ConfigDict, Field

from data.dataset import LabelSet
from data.folds import ROLES, patient_folds, random_folds
from data.reader import Header, RecordBlock

LABEL_SET = LabelSet("label", "binary", ("abnormal",))
CHUNK_ROWS = 8192  # 20 MB of 600 timesteps
GZIP_CHUNKS = 12  # at most so many, as each decompresses from the beginning

_LABELS = {b"0": 0, b"1": 1, b"0.0": 0, b"1.0": 1}


class SegmentsCsvConfig(BaseModel):
    """What the file does not say of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the .csv or .csv.gz file, with or without a header; the label is the last column")
    fs_hz: float = Field(
        gt=0, description="sampling rate, which the file does not state", json_schema_extra={"unit": "Hz"}
    )
    records: str | None = Field(
        None, description="file with the header `record` and one id a row, for folds disjoint by record (patient)"
    )
    seed: int = Field(18, ge=0, description="seed of the folds")


@dataclass(frozen=True)
class Chunk:
    """Consecutive lines of the file, by their place in the (decompressed) text."""

    offset: int
    n_bytes: int
    first_row: int  # of the data, from 0
    n_rows: int


@dataclass(frozen=True)
class Layout:
    """What one pass over the lines finds."""

    n_timesteps: int
    n_header_lines: int
    labels_N: NDArray[np.int8]
    chunks: tuple[Chunk, ...]


class SegmentsCsvReader:
    """Reads windows of one lead. Construction passes over the whole file once.

    Raises:
        ValueError: no such file, ragged rows, a label other than 0 or 1, or record ids that do not fit.
    """

    def __init__(self, config: SegmentsCsvConfig) -> None:
        self._source = config.source
        self._path = Path(config.source).absolute()  # workers run in other folders
        self._layout = scan(self._path, config.source)
        labels_N = self._layout.labels_N
        self._record_ids = _row_ids(len(labels_N))
        if config.records is None:
            self._patient_ids, self._folds_N = self._record_ids, random_folds(labels_N, config.seed)
        else:
            self._patient_ids = read_records(Path(config.records), len(labels_N))
            self._folds_N = patient_folds(labels_N, self._patient_ids, config.seed)
        self._header = _header(config, self._layout.n_timesteps)

    @property
    def header(self) -> Header:
        return self._header

    def chunks(self) -> Sequence[Chunk]:
        return self._layout.chunks

    def read(self, chunk: Chunk) -> RecordBlock:
        with _open(self._path, self._source) as file:
            file.seek(chunk.offset)
            text = file.read(chunk.n_bytes)
        first_line = chunk.first_row + self._layout.n_header_lines + 1
        rows = slice(chunk.first_row, chunk.first_row + chunk.n_rows)
        return RecordBlock(
            ecg_NLT=parse_signal(text, self._layout.n_timesteps, first_line, self._source)[:, np.newaxis, :],
            length_N=np.full(chunk.n_rows, self._layout.n_timesteps, np.int32),
            labels={LABEL_SET.name: self._layout.labels_N[rows, np.newaxis].astype(np.float32)},
            record_ids=self._record_ids[rows],
            patient_ids=self._patient_ids[rows],
            folds=self._folds_N[rows],
        )


def scan(path: Path, source: str) -> Layout:
    """Pass once over the lines of the file: check their lengths and labels, and cut them into chunks.

    Raises:
        ValueError: names the file, the row (from 1, as the file shows it) and the rule.
    """
    with _open(path, source) as file:
        first = file.readline()
        n_commas = first.count(b",")
        if n_commas < 1:
            raise ValueError(f"{source}: row 1 has {n_commas + 1} column; signal columns and then a label are needed")
        n_header_lines = int(_is_header(first))
        file.seek(0)
        start = len(b"".join(file.readline() for _ in range(n_header_lines)))
        labels, lengths = [], []
        for row, line in enumerate(file, start=n_header_lines + 1):
            if line.count(b",") != n_commas:
                raise ValueError(
                    f"{source}: row {row} has {line.count(b',') + 1} columns, but row 1 has {n_commas + 1}; "
                    "every row needs the same: repair or remove it"
                )
            labels.append(_parse_label(line, row, source))
            lengths.append(len(line))
    if not labels:
        raise ValueError(f"{source} has no data rows; one window a row is needed")
    offsets = np.concatenate([[start], start + np.cumsum(lengths)])
    chunks = _cut(offsets, n_most=GZIP_CHUNKS if path.suffix == ".gz" else None)
    return Layout(n_commas, n_header_lines, np.array(labels, np.int8), chunks)


def parse_signal(text: bytes, n_timesteps: int, first_line: int, source: str) -> NDArray[np.float32]:
    """Parse whole lines to ecg_NT, leaving out the last column. `first_line`: the row of the file they begin at.

    Raises:
        ValueError: a cell is not a finite number; names its row and column (from 1).
    """
    names = [str(column) for column in range(n_timesteps + 1)]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(text),
            read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float32()), include_columns=names[:-1], null_values=[]
            ),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(_bad_cell(text, first_line, source) or f"{source}: from row {first_line}: {error}") from None
    ecg_NT = np.empty((table.num_rows, n_timesteps), np.float32)
    for column in range(n_timesteps):
        ecg_NT[:, column] = table[column].to_numpy()
    if not np.isfinite(ecg_NT).all():
        raise ValueError(_bad_cell(text, first_line, source) or f"{source}: from row {first_line}: a value overflows")
    return ecg_NT


def read_records(path: Path, n_rows: int) -> NDArray[np.str_]:
    """Read the record (patient) id of every row: a file with the header `record` and one id a line.

    Raises:
        ValueError: no such file, another header, an empty id, or another number of ids than `n_rows`.
    """
    with _open(path, str(path)) as file:
        header, *ids = (line.strip().decode("utf-8-sig", "replace").strip('"') for line in file)
    if header != "record":
        raise ValueError(f"{path}: row 1 must be the header `record`, got {header!r}: add it")
    if "" in ids:
        raise ValueError(f"{path}: row {ids.index('') + 2} is empty; every row needs a record id")
    if len(ids) != n_rows:
        raise ValueError(f"{path} has {len(ids)} record ids, but the data has {n_rows} rows; one a row is needed")
    return np.array(ids, dtype=np.str_)


def _header(config: SegmentsCsvConfig, n_timesteps: int) -> Header:
    leak = "folds are random by row, since no record ids were given: windows of one patient may be in several folds"
    return Header(
        kind="segments_csv",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=("ECG",),
        fs_hz=config.fs_hz,
        n_timesteps=n_timesteps,
        label_sets={LABEL_SET.name: LABEL_SET},
        folds=ROLES,
        patients_known=config.records is not None,
        notes=() if config.records else (leak,),
    )


@contextmanager
def _open(path: Path, source: str) -> Iterator[IO[bytes]]:
    """Open the text of a .csv or .csv.gz file; a byte order mark is part of the first line."""
    if not path.name.endswith((".csv", ".csv.gz")):
        raise ValueError(f"{source}: a .csv or .csv.gz file is needed")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]  # GzipFile reads like a file, but typeshed has no common type
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{source} is no whole gzip file ({error}); fetch it anew") from None
    except OSError as error:
        raise ValueError(f"{source} can't be read ({error.strerror or error}); check the path") from None


def _is_header(line: bytes) -> bool:
    """Tell whether the first line is a header: it has more words than numbers, or numbers the columns.

    One word alone is a bad cell, not a header. pandas writes a table without column names under the header 0,1,2,...
    """
    cells = [cell.strip().strip('"') for cell in line.decode("utf-8-sig", "replace").split(",")]
    n_words = sum(not _is_number(cell) for cell in cells)
    if n_words:
        return n_words > len(cells) / 2 or not _is_number(cells[-1])
    return cells[:-1] == [str(column) for column in range(len(cells) - 1)] and len(cells) > 2


def _parse_label(line: bytes, row: int, source: str) -> int:
    cell = line[line.rfind(b",") + 1 :].strip()
    label = _LABELS.get(cell)
    if label is not None:
        return label
    text = cell.decode("utf-8", "replace")
    if _is_number(text) and float(text) in (0, 1):  # 1e0, 1.000
        return int(float(text))
    raise ValueError(f"{source}: row {row}: the label (last column) must be 0 or 1, got {text!r}")


def _is_number(cell: str) -> bool:
    """Tell whether a cell is a finite number; unlike Python's, 1_000 is none."""
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


def _bad_cell(text: bytes, first_line: int, source: str) -> str:
    """Say where the first cell is that is not a number, or return an empty string."""
    for row, line in enumerate(text.splitlines(), start=first_line):
        for column, cell in enumerate(line.decode("utf-8", "replace").split(","), start=1):
            if not _is_number(cell):
                return (
                    f"{source}: row {row}, column {column}: {cell!r} is not a number; every signal value must be, in mV"
                )
    return ""


def _cut(offsets: NDArray[np.int64], n_most: int | None) -> tuple[Chunk, ...]:
    """Cut rows, given where each begins and the last ends, into chunks of equal numbers of rows."""
    n_rows = len(offsets) - 1
    size = CHUNK_ROWS if n_most is None else max(CHUNK_ROWS, -(-n_rows // n_most))
    bounds = [*range(0, n_rows, size), n_rows]
    return tuple(
        Chunk(int(offsets[first]), int(offsets[last] - offsets[first]), first, last - first)
        for first, last in pairwise(bounds)
    )


def _row_ids(n_rows: int) -> NDArray[np.str_]:
    width = len(str(n_rows))
    return np.array([f"{row:0{width}d}" for row in range(1, n_rows + 1)], dtype=np.str_)
