"""The shard store: a folder of shards (HDF5 or Parquet) and `dataset.json`, the manifest that makes them a data set.

The manifest is written last. A folder without it is no store, so a killed ingestion leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from data import hdf5_shard, parquet_shard
from data.dataset import LabelSet
from data.printable import has_control, printable
from data.reader import Header, RecordBlock, RecordTable

MANIFEST_NAME = "dataset.json"
VERSION = 2

Format = Literal["hdf5", "parquet"]
Dtype = Literal["float32", "float16"]

FORMATS: Mapping[Format, ModuleType] = MappingProxyType({"hdf5": hdf5_shard, "parquet": parquet_shard})


class CorruptShard(ValueError):  # noqa: N818  (named for what it reports)
    """A shard is missing, damaged, or not the one that the manifest describes. The message names the file."""


def _check_file(name: str) -> str:
    if Path(name).name != name or has_control(name):
        raise ValueError(f"a shard is a file in the store's folder, got {printable(name)!r}")
    return name


def _check_text(text: str) -> str:
    if has_control(text):
        raise ValueError(f"has a control character: {printable(text)!r}")
    return text


Text = Annotated[str, AfterValidator(_check_text)]


class Shard(BaseModel):
    """One file of records, in the order of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, AfterValidator(_check_file)]
    n_records: int = Field(ge=0)
    sha256: str  # of the file


class Counts(BaseModel):
    """How many records there are, by fold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_records: int
    n_patients: int | None  # None where patients are unknown
    n_quarantined: int  # records that were left out; `quarantine.csv` says why
    records: dict[int, int]
    labelled: dict[str, dict[int, int]]  # label set -> fold -> records that have a label in it
    labels: dict[str, dict[int, tuple[int, ...]]]  # label set -> fold -> records by label (regression: known values)


class Manifest(BaseModel):
    """What `dataset.json` says: the header of the data set, its shards and its counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[2]
    kind: str
    source: str
    options: dict[str, Any]
    lead_names: tuple[Text, ...]
    fs_hz: float
    n_timesteps: int
    label_sets: dict[str, LabelSet]
    folds: dict[str, tuple[int, ...]]
    patients_known: bool
    preprocessing: tuple[str, ...]
    notes: tuple[Text, ...]
    format: Format
    dtype: Dtype
    counts: Counts
    shards: tuple[Shard, ...]
    fingerprint: str

    @field_validator("label_sets")
    @classmethod
    def _check_labels(cls, label_sets: dict[str, LabelSet]) -> dict[str, LabelSet]:
        for label_set in label_sets.values():
            for name in (label_set.name, *label_set.names, *label_set.units):
                _check_text(name)
        return label_sets


def build_manifest(
    header: Header,
    notes: tuple[str, ...],
    shard_format: Format,
    dtype: Dtype,
    counts: Counts,
    shards: tuple[Shard, ...],
) -> Manifest:
    """Join what is known after ingestion, and fingerprint it."""
    fields = {
        "version": VERSION,
        "kind": header.kind,
        "source": header.source,
        "options": dict(header.options),
        "lead_names": header.lead_names,
        "fs_hz": header.fs_hz,
        "n_timesteps": header.n_timesteps,
        "label_sets": dict(header.label_sets),
        "folds": dict(header.folds),
        "patients_known": header.patients_known,
        "preprocessing": (),  # none at ingestion: a store keeps the signal as its source has it
        "notes": notes,
        "format": shard_format,
        "dtype": dtype,
        "counts": counts,
        "shards": shards,
        "fingerprint": "",
    }
    manifest = Manifest.model_validate(fields)
    return manifest.model_copy(update={"fingerprint": fingerprint(manifest)})


def fingerprint(manifest: Manifest) -> str:
    """Return the sha256 over what a trial can see of the data: not the source's path, nor the notes."""
    seen = manifest.model_dump(mode="json", exclude={"kind", "source", "options", "notes", "fingerprint", "counts"})
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Write `dataset.json` whole or not at all."""
    partial = store / f".{MANIFEST_NAME}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(manifest.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, store / MANIFEST_NAME)


def read_manifest(store: Path) -> Manifest:
    """Read `dataset.json`.

    Raises:
        ValueError: there is no store, or its manifest is damaged or of another version; one line, with the way out.
    """
    path = store / MANIFEST_NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{store} is no store, as it has no {MANIFEST_NAME}; "
            f"make one: python -m platform.ingest KIND SOURCE --out {store}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} can't be read ({_first_line(error)}); ingest the data set anew") from error
    version = fields.get("version") if isinstance(fields, dict) else None
    if version != VERSION:
        raise ValueError(f"{path} has version {version!r}, but this code reads {VERSION}; ingest the data set anew")
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {key}: {first['msg']}; ingest the data set anew") from None
    if fingerprint(manifest) != manifest.fingerprint:
        raise ValueError(f"{path} was edited: its fingerprint does not match its content; ingest the data set anew")
    return manifest


def write_shard(store: Path, name: str, block: RecordBlock, shard_format: Format, dtype: Dtype) -> Shard:
    """Write one shard into `store` and flush it to disk. `name` comes without a suffix."""
    module = FORMATS[shard_format]
    path = store / f"{name}{module.SUFFIX}"
    module.write(path, block, dtype)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return Shard(file=path.name, n_records=len(block.record_ids), sha256=_sha256(path))


def verify_shard(store: Path, shard: Shard) -> None:
    """Compare the file with its checksum.

    Raises:
        CorruptShard: the file is missing or was changed.
    """
    path = store / shard.file
    try:
        actual = _sha256(path)
    except OSError as error:
        raise CorruptShard(f"{path} can't be read ({error.strerror})") from error
    if actual != shard.sha256:
        raise CorruptShard(
            f"{path} is corrupt: its sha256 is {actual[:12]}..., the manifest says {shard.sha256[:12]}..."
        )


def read_table(store: Path, shard: Shard) -> RecordTable:
    """Read everything of a shard but its signal.

    Raises:
        CorruptShard: the file is missing, damaged, or of another length than the manifest says.
    """
    path, module = store / shard.file, _module_of(shard)
    try:
        table: RecordTable = module.read_table(path)
    except module.ERRORS as error:
        raise _unreadable(path, error) from error
    if len(table.record_ids) != shard.n_records:
        raise CorruptShard(f"{path} has {len(table.record_ids)} records, the manifest says {shard.n_records}")
    return table


def read_ecg(store: Path, shard: Shard, rows: slice | None = None) -> NDArray[np.float32]:
    """Read ecg_NLT in mV of a shard, or of consecutive `rows` of it (step 1).

    Raises:
        CorruptShard: the file is missing, damaged, or of another length than the manifest says.
    """
    path, module = store / shard.file, _module_of(shard)
    rows = slice(0, shard.n_records) if rows is None else slice(*rows.indices(shard.n_records)[:2])
    try:
        ecg_NLT: NDArray[np.float32] = module.read_ecg(path, rows)
    except module.ERRORS as error:
        raise _unreadable(path, error) from error
    if len(ecg_NLT) != max(0, rows.stop - rows.start):
        raise CorruptShard(f"{path} ends before record {rows.stop}, the manifest says {shard.n_records} records")
    return ecg_NLT


def read_shard(store: Path, shard: Shard, rows: slice | None = None) -> RecordBlock:
    """Read a shard, or consecutive `rows` of it; HDF5 and Parquet give equal blocks.

    Raises:
        CorruptShard: as `read_table` and `read_ecg`.
    """
    table = read_table(store, shard)
    rows = slice(None) if rows is None else rows
    return RecordBlock(
        ecg_NLT=read_ecg(store, shard, rows),
        length_N=table.length_N[rows],
        labels={name: labels_NK[rows] for name, labels_NK in table.labels.items()},
        record_ids=table.record_ids[rows],
        patient_ids=table.patient_ids[rows],
        folds=table.folds[rows],
        meta={name: values_N[rows] for name, values_N in table.meta.items()},
    )


def _module_of(shard: Shard) -> ModuleType:
    return next(module for module in FORMATS.values() if shard.file.endswith(module.SUFFIX))


def _unreadable(path: Path, error: Exception) -> CorruptShard:
    return CorruptShard(f"{path} can't be read ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
