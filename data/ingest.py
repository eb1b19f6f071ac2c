"""Turn what a reader reads into a store.

Tasks write the shards themselves and return a few numbers each, so no signal travels to the driver. On a cluster
`out` must lie on storage that every node shares. All of it is written to a hidden folder beside `out`, which gets
its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict

from data.counts import add, count
from data.reader import Header, Reader, RecordBlock
from data.store import Counts, Dtype, Format, Manifest, Shard, build_manifest, write_manifest, write_shard

SHARD_BYTES = 64 * 1024**2

Progress = Callable[[int, int, int], None]
"""Called with (chunks done, chunks in all, records written)."""


class Written(BaseModel):
    """What a task returns of the chunk that it wrote."""

    model_config = ConfigDict(frozen=True)

    index: int
    shards: tuple[Shard, ...]
    counts: Counts
    record_ids: tuple[str, ...]
    patient_folds: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ShardWriter:
    """Reads chunks and writes them as shards into `folder`; runs in any process."""

    reader: Reader
    folder: Path
    shard_format: Format
    dtype: Dtype
    n_records_per_shard: int

    def write(self, index: int, chunk: Any) -> Written:
        """Write one chunk, in as many shards as it needs."""
        block, header = self.reader.read(chunk), self.reader.header
        check_block(block, header)
        starts = range(0, len(block.folds), self.n_records_per_shard)
        shards = tuple(
            write_shard(
                self.folder,
                f"shard-{index:05d}-{part:03d}",
                _rows(block, slice(start, start + self.n_records_per_shard)),
                self.shard_format,
                self.dtype,
            )
            for part, start in enumerate(starts)
        )
        return Written(
            index=index,
            shards=shards,
            counts=count(block, header.label_sets),
            record_ids=tuple(block.record_ids.tolist()),
            patient_folds=tuple(sorted(set(zip(block.patient_ids.tolist(), block.folds.tolist(), strict=True)))),
        )


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
    `n_records_per_shard` records (default: 64 MiB of signal).

    Raises:
        ValueError: `out` exists and is not empty, or a record is malformed; nothing is left on disk.
    """
    from data.parallel import map_items, running_ray

    def written(writer: ShardWriter, chunks: list[Any]) -> Iterator[Written]:
        with running_ray(len(chunks)):
            for row in map_items(partial(_write_item, writer=writer), chunks):
                # Errors come back as values: Ray would wrap them in its own, with a page of traceback.
                if row["error"]:
                    raise ValueError(row["error"])
                yield Written.model_validate_json(row["written"])

    return _ingest(
        reader,
        out,
        shard_format=shard_format,
        dtype=dtype,
        n_records_per_shard=n_records_per_shard,
        progress=progress,
        written=written,
    )


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

    def written(writer: ShardWriter, chunks: list[Any]) -> Iterator[Written]:
        return (writer.write(index, chunk) for index, chunk in enumerate(chunks))

    return _ingest(
        reader,
        out,
        shard_format=shard_format,
        dtype=dtype,
        n_records_per_shard=n_records_per_shard,
        progress=progress,
        written=written,
    )


def check_block(block: RecordBlock, header: Header) -> None:
    """Check a block against its header.

    Raises:
        ValueError: a record's signal is not finite; names the record.
    """
    n_records = len(block.record_ids)
    assert block.ecg_NLT.shape == (n_records, len(header.lead_names), header.n_timesteps), block.ecg_NLT.shape
    assert block.labels.keys() == header.label_sets.keys(), block.labels.keys()
    for name, label_set in header.label_sets.items():
        n_columns = 1 if label_set.task == "multiclass" else label_set.n_outputs
        assert block.labels[name].shape == (n_records, n_columns), (name, block.labels[name].shape)
    assert set(np.unique(block.folds).tolist()) <= {fold for folds in header.folds.values() for fold in folds}
    finite_N = np.isfinite(block.ecg_NLT.reshape(n_records, -1)).all(axis=1)
    if not finite_N.all():
        raise ValueError(
            f"{header.source}: record {block.record_ids[np.argmin(finite_N)]} has a value that is not finite; "
            "every signal value must be a number in mV: repair the record or take it out"
        )


def _ingest(
    reader: Reader,
    out: Path,
    *,
    shard_format: Format,
    dtype: Dtype,
    n_records_per_shard: int | None,
    progress: Progress | None,
    written: Callable[[ShardWriter, list[Any]], Iterable[Written]],
) -> Manifest:
    header, chunks = reader.header, list(reader.chunks())
    record_bytes = len(header.lead_names) * header.n_timesteps * np.dtype(dtype).itemsize
    if n_records_per_shard is None:
        n_records_per_shard = max(1, SHARD_BYTES // record_bytes)
    if n_records_per_shard < 1:
        raise ValueError(f"`n_records_per_shard >= 1` must hold, but got {n_records_per_shard}")
    with _new_folder(out) as folder:
        writer = ShardWriter(reader, folder, shard_format, dtype, n_records_per_shard)
        parts: list[Written] = []
        for part in written(writer, chunks):
            parts.append(part)
            if progress is not None:
                progress(len(parts), len(chunks), sum(each.counts.n_records for each in parts))
        manifest = _join(header, shard_format, dtype, sorted(parts, key=lambda part: part.index))
        write_manifest(folder, manifest)
    return manifest


def _write_item(row: dict[str, Any], writer: ShardWriter) -> dict[str, Any]:
    try:
        return {"written": writer.write(row["index"], row["item"]).model_dump_json(), "error": ""}
    except ValueError as error:
        return {"written": "", "error": str(error)}


def _join(header: Header, shard_format: Format, dtype: Dtype, parts: list[Written]) -> Manifest:
    _check_unique([record for part in parts for record in part.record_ids], header)
    patients: dict[str, int] = {}
    for part in parts:
        for patient, fold in part.patient_folds:
            if header.patients_known and patients.setdefault(patient, fold) != fold:
                raise ValueError(
                    f"{header.source}: patient {patient} is in folds {patients[patient]} and {fold}; "
                    "a patient must be in one fold only: correct the folds"
                )
    n_patients = len(patients) if header.patients_known else None
    counts = add((part.counts for part in parts), header.label_sets, n_patients)
    return build_manifest(header, shard_format, dtype, counts, tuple(shard for part in parts for shard in part.shards))


def _check_unique(record_ids: list[str], header: Header) -> None:
    seen: set[str] = set()
    for record in record_ids:
        if record in seen:
            raise ValueError(f"{header.source}: record id {record} occurs twice; ids must be unique: rename one")
        seen.add(record)


def _rows(block: RecordBlock, rows: slice) -> RecordBlock:
    return RecordBlock(
        ecg_NLT=block.ecg_NLT[rows],
        labels={name: labels_NK[rows] for name, labels_NK in block.labels.items()},
        record_ids=block.record_ids[rows],
        patient_ids=block.patient_ids[rows],
        folds=block.folds[rows],
        meta={name: values_N[rows] for name, values_N in block.meta.items()},
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder that becomes `out` at the end, or disappears with an exception."""
    check_free(out)
    out = out.absolute()
    # Beside the first folder that exists: a failure must not leave empty parents of `out` behind.
    parent = next(folder for folder in out.parents if folder.is_dir())
    prefix = f".{out.name}.{socket.gethostname()}-"
    _remove_abandoned(parent, prefix)
    folder = parent / f"{prefix}{os.getpid()}.partial"
    folder.mkdir()
    try:
        yield folder
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_free(out: Path) -> None:
    """Check that `out` is no file and no folder with content.

    Raises:
        ValueError: it is.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; nothing is overwritten: choose another --out, or remove it")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a store is a folder: choose another --out")


def _remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove what killed ingestions to the same store left on this machine."""
    for folder in parent.glob(f"{prefix}*.partial"):
        pid = folder.name.removeprefix(prefix).removesuffix(".partial")
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
