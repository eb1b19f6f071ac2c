"""Turn what a reader reads into a store.

Tasks write the shards themselves and return a few numbers each, so no signal travels to the driver. On a cluster
`out` must lie on storage that every node shares. All of it is written to a hidden folder beside `out`, which gets
its name when it is whole. A task that has written a chunk says so in a file of its own; an ingestion that was killed
leaves the hidden folder, and the same command goes on from there.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from data.counts import add, count
from data.duplicates import HashedRecords, find_duplicates, signal_hashes
from data.reader import Header, Quarantined, Reader, RecordBlock, take_rows
from data.store import Counts, Dtype, Format, Manifest, Shard, build_manifest, write_manifest, write_shard
from data.store_folder import REQUEST_NAME, new_folder, write_whole

SHARD_BYTES = 64 * 1024**2
QUARANTINE_NAME, DUPLICATES_NAME = "quarantine.csv", "duplicates.csv"
_CHUNKS_NAME = "chunks"

Progress = Callable[[int, int, int], None]
"""Called with (chunks done, chunks in all, records written)."""


class Written(BaseModel):
    """What a task says of the chunk that it wrote. Of N records."""

    model_config = ConfigDict(frozen=True)

    shards: tuple[Shard, ...]
    counts: Counts
    quarantined: tuple[Quarantined, ...]
    record_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    folds: tuple[int, ...]
    hashes: tuple[str, ...]  # of the signals


@dataclass(frozen=True)
class Work:
    """A chunk that is to be read."""

    index: int
    chunk: Any


class Done(NamedTuple):
    """A chunk that is on disk."""

    number: int
    n_records: int


@dataclass(frozen=True)
class ShardWriter:
    """Reads chunks and writes them as shards into `folder`; runs in any process."""

    reader: Reader
    folder: Path
    shard_format: Format
    dtype: Dtype
    n_records_per_shard: int

    def write(self, work: Work) -> Done:
        """Write one chunk, in as many shards as it needs, and then the file that says so."""
        index, block, header = work.index, self.reader.read(work.chunk), self.reader.header
        check_block(block, header)
        starts = range(0, len(block.folds), self.n_records_per_shard)
        shards = tuple(
            write_shard(
                self.folder,
                f"shard-{index:05d}-{part:03d}",
                take_rows(block, slice(start, start + self.n_records_per_shard)),
                self.shard_format,
                self.dtype,
            )
            for part, start in enumerate(starts)
        )
        written = Written(
            shards=shards,
            counts=count(block, header.label_sets),
            quarantined=block.quarantined,
            record_ids=tuple(block.record_ids.tolist()),
            patient_ids=tuple(block.patient_ids.tolist()),
            folds=tuple(block.folds.tolist()),
            hashes=signal_hashes(block),
        )
        write_whole(chunk_file(self.folder, index), written.model_dump_json())
        return Done(index, written.counts.n_records)


def ingest(
    reader: Reader,
    out: Path,
    *,
    shard_format: Format = "hdf5",
    dtype: Dtype = "float32",
    n_records_per_shard: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write all records of `reader` to the store `out`, in parallel through Ray Data.

    Uses the Ray that is running, or starts a local one for the time it takes. Shards take at most
    `n_records_per_shard` records (default: 64 MiB of signal). Where an ingestion of the same data to `out` was
    killed, only what it had not written is read.

    Raises:
        ValueError: `out` exists and is not empty, another process writes it, the source is malformed, or no record
            of it can be read; nothing is left on disk.
    """
    from data.parallel import map_items, running_ray

    def written(writer: ShardWriter, chunks: Sequence[Work]) -> Iterator[Done]:
        with running_ray(len(chunks)):
            for row in map_items(partial(_write_item, writer=writer), chunks):
                # Errors come back as values: Ray would wrap them in its own, with a page of traceback.
                if row["error"]:
                    raise ValueError(row["error"])
                yield Done(row["number"], row["n_records"])

    return _ingest(reader, out, shard_format, dtype, n_records_per_shard, progress, written)


def ingest_serially(
    reader: Reader,
    out: Path,
    *,
    shard_format: Format = "hdf5",
    dtype: Dtype = "float32",
    n_records_per_shard: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Do what `ingest` does, in this process and without Ray: the same store, byte for byte."""

    def written(writer: ShardWriter, chunks: Sequence[Work]) -> Iterator[Done]:
        return (writer.write(work) for work in chunks)

    return _ingest(reader, out, shard_format, dtype, n_records_per_shard, progress, written)


def check_block(block: RecordBlock, header: Header) -> None:
    """Check a block against its header.

    Raises:
        ValueError: a record's signal is not finite; names the record.
    """
    n_records = len(block.record_ids)
    assert block.ecg_NLT.shape == (n_records, len(header.lead_names), header.n_timesteps), block.ecg_NLT.shape
    assert block.length_N.shape == (n_records,), block.length_N.shape
    assert block.labels.keys() == header.label_sets.keys(), block.labels.keys()
    for name, label_set in header.label_sets.items():
        n_columns = 1 if label_set.task == "multiclass" else label_set.n_outputs
        assert block.labels[name].shape == (n_records, n_columns), (name, block.labels[name].shape)
    assert set(np.unique(block.folds).tolist()) <= {fold for folds in header.folds.values() for fold in folds}
    finite_N = np.isfinite(block.ecg_NLT).all(axis=(1, 2))
    if not finite_N.all():
        raise ValueError(
            f"{header.source}: record {block.record_ids[np.argmin(finite_N)]} has a value that is not finite; "
            "every signal value must be a number in mV: repair the record or take it out"
        )


def _ingest(
    reader: Reader,
    out: Path,
    shard_format: Format,
    dtype: Dtype,
    n_records_per_shard: int | None,
    progress: Progress | None,
    written: Callable[[ShardWriter, Sequence[Work]], Iterable[Done]],
) -> Manifest:
    header, chunks = reader.header, list(reader.chunks())
    record_bytes = len(header.lead_names) * header.n_timesteps * np.dtype(dtype).itemsize
    if n_records_per_shard is None:
        n_records_per_shard = max(1, SHARD_BYTES // record_bytes)
    if n_records_per_shard < 1:
        raise ValueError(f"`n_records_per_shard >= 1` must hold, but got {n_records_per_shard}")
    request = f"{header} {len(chunks)} chunks {shard_format} {dtype} {n_records_per_shard}"
    with new_folder(out, request) as folder:
        (folder / _CHUNKS_NAME).mkdir(exist_ok=True)
        writer = ShardWriter(reader, folder, shard_format, dtype, n_records_per_shard)
        done = {index: _read_written(folder, index).counts.n_records for index in _chunks_on_disk(folder)}
        left = [Work(index, chunk) for index, chunk in enumerate(chunks) if index not in done]
        for each in written(writer, left):
            done[each.number] = each.n_records
            if progress is not None:
                progress(len(done), len(chunks), sum(done.values()))
        manifest = _join(header, shard_format, dtype, folder, len(chunks))
        write_manifest(folder, manifest)
    return manifest


def _write_item(row: dict[str, Any], writer: ShardWriter) -> dict[str, Any]:
    try:
        return {**writer.write(row["item"])._asdict(), "error": ""}
    except ValueError as error:
        return {"number": row["item"].index, "n_records": 0, "error": str(error)}


# ---------------------------------------------------------------------- joining the chunks


def _join(header: Header, shard_format: Format, dtype: Dtype, folder: Path, n_chunks: int) -> Manifest:
    """Join what the tasks say of their chunks, in order, one at a time: of a million records, only ids are held."""
    parts: list[Counts] = []
    shards: list[Shard] = []
    quarantined: list[Quarantined] = []
    records, patients = HashedRecords(), _Patients(header)
    for index in range(n_chunks):
        part = _read_written(folder, index)
        parts.append(part.counts)
        shards += part.shards
        quarantined += part.quarantined
        records.add(part.record_ids, part.folds, part.hashes)
        patients.add(part.patient_ids, part.folds)
    if not shards:
        reason = f": the first is {quarantined[0].record_id}, {quarantined[0].reason}" if quarantined else ""
        raise ValueError(f"{header.source}: none of its {len(quarantined)} records can be taken in{reason}")
    _check_unique(records.record_ids, header)
    notes = list(header.notes)
    if quarantined:
        _write_csv(folder / QUARANTINE_NAME, Quarantined._fields, quarantined)
        notes.append(f"{len(quarantined)} records are left out; {QUARANTINE_NAME} says why")
    copies = find_duplicates(records)
    if copies:
        _write_csv(folder / DUPLICATES_NAME, ("group", "record_id", "fold"), copies)
        notes.append(_duplicates_note(copies))
    shutil.rmtree(folder / _CHUNKS_NAME)
    (folder / REQUEST_NAME).unlink()
    counts = add(parts, header.label_sets, patients.n_patients)
    return build_manifest(header, tuple(notes), shard_format, dtype, counts, tuple(shards))


def _duplicates_note(copies: Sequence[tuple[int, str, int]]) -> str:
    groups: dict[int, set[int]] = {}
    for group, _, fold in copies:
        groups.setdefault(group, set()).add(fold)
    across = sum(len(folds) > 1 for folds in groups.values())
    return (
        f"{len(copies)} records have exactly the signal of another ({len(groups)} groups, {across} of them across "
        f"folds); {DUPLICATES_NAME} names them"
    )


class _Patients:
    """Checks that each patient is in one fold only, and counts them."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._folds: dict[str, int] = {}

    @property
    def n_patients(self) -> int | None:
        return len(self._folds) if self._header.patients_known else None

    def add(self, patient_ids: Sequence[str], folds: Sequence[int]) -> None:
        for patient, fold in zip(patient_ids, folds, strict=True):
            if self._header.patients_known and self._folds.setdefault(patient, fold) != fold:
                raise ValueError(
                    f"{self._header.source}: patient {patient} is in folds {self._folds[patient]} and {fold}; "
                    "a patient must be in one fold only: correct the folds"
                )


def _check_unique(record_ids: Sequence[str], header: Header) -> None:
    seen: set[str] = set()
    for record in record_ids:
        if record in seen:
            raise ValueError(f"{header.source}: record id {record} occurs twice; ids must be unique: rename one")
        seen.add(record)


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def chunk_file(folder: Path, index: int) -> Path:
    """Return the file that says that a chunk is whole."""
    return folder / _CHUNKS_NAME / f"{index:07d}.json"


def _chunks_on_disk(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in (folder / _CHUNKS_NAME).glob("*.json"))


def _read_written(folder: Path, index: int) -> Written:
    return Written.model_validate_json(chunk_file(folder, index).read_bytes())
