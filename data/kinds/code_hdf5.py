"""AdaGrad-Fusion's HDF5 layout: `record_set` (N, 12, 1, T) or (N, 12, T), and `label_set` (N, C) of zeros and ones.

Both lie in one file, such as `class_sepe16_dataset_Chapman_32.hdf5`, or in one each, as of CODE. The layout has no
patients, no sampling rate and no names of labels; leads are I, II, III, aVR, aVL, aVF, V1-V6. Records shorter than T
end with zeros, which are taken off. `export_code_hdf5` writes this layout from a store.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator

from data.dataset import LabelSet
from data.folds import ROLES, stratified_folds
from data.hdf5_rows import Hdf5Rows, find_dataset, open_hdf5
from data.leads import LEADS_12
from data.reader import Header
from data.record_reader import Index, NanPolicy, RawRecord, RecordReader
from data.store import Manifest, read_ecg, read_manifest, read_table, verify_shard

LABELS = "labels"  # the name of the label set, for which the layout has none
RECORDS_NAME, LABELS_NAME = "record_set", "label_set"
_NAMES, _RATE = "label_names", "fs_hz"  # attributes that an export adds


class CodeHdf5Config(BaseModel):
    """What the file does not say of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the .hdf5 file with record_set, and with label_set or --labels-file")
    fs_hz: float = Field(
        gt=0, le=10_000, description="sampling rate, which the file does not state", json_schema_extra={"unit": "Hz"}
    )
    labels_file: str | None = Field(None, description="the .hdf5 file with label_set, where it has one of its own")
    label_names: tuple[str, ...] | None = Field(
        None, description="names of the columns of label_set, with commas between; else the file's own, or class0, ..."
    )
    nan: NanPolicy = Field("quarantine", description="what becomes of values that are not finite")
    seed: int = Field(18, ge=0, description="seed of the folds")

    @field_validator("label_names", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Take a command line's `a,b,c`, of which one name may look like a number."""
        return [name.strip() for name in str(value).split(",")] if isinstance(value, str | int | float) else value

    @field_validator("label_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not all(names) or len(set(names)) < len(names)):
            raise ValueError(f"label names must be different and not empty, got {', '.join(names)}")
        return names


def build_reader(config: CodeHdf5Config) -> RecordReader:
    """Look at the shape of the signals, and read the labels.

    Raises:
        ValueError: a file or dataset is missing, shapes don't fit, or a label is neither 0 nor 1.
    """
    path = Path(config.source).absolute()  # workers run in other folders
    with open_hdf5(path, config.source) as file:
        records = find_dataset(file, RECORDS_NAME, config.source, "name the file with the signals")
        n_records, n_timesteps = check_shape(records, config.source)
        _check_rate(file, config)
    label_set, labels_NK = _read_labels(config, n_records)
    width = len(str(n_records - 1))
    record_ids = np.array([f"{row:0{width}d}" for row in range(n_records)], np.str_)
    header = Header(
        kind="code_hdf5",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=n_timesteps,
        label_sets={LABELS: label_set},
        folds=ROLES,
        patients_known=False,
        notes=(
            "folds are by record, since the layout has no patients: records of one patient may be in several folds",
            "values are stored as they are: files that AdaGrad-Fusion wrote are filtered and z-scored, not in mV",
        ),
    )
    index = Index(
        places=range(n_records),
        record_ids=record_ids,
        patient_ids=record_ids,
        folds=stratified_folds(labels_NK, record_ids, config.seed),
        labels={LABELS: labels_NK},
    )
    read_record = partial(read_row, rows=Hdf5Rows(RECORDS_NAME), path=str(path), fs_hz=config.fs_hz)
    return RecordReader(header, index, read_record, config.nan)


def read_row(row: int, rows: Hdf5Rows, path: str, fs_hz: float) -> RawRecord:
    """Read the record in one row, without the zeros at its end."""
    ecg_LT = rows.read(path, row).reshape(len(LEADS_12), -1)
    length = np.flatnonzero((ecg_LT != 0).any(axis=0))[-1:] + 1
    return RawRecord(ecg_LT[:, : int(length.sum())], fs_hz, LEADS_12)


def check_shape(records: h5py.Dataset, source: str) -> tuple[int, int]:
    """Return the number of records and of timesteps.

    Raises:
        ValueError: the shape is not (N, 12, 1, T) or (N, 12, T).
    """
    shape, n_leads = records.shape, len(LEADS_12)
    is_long = len(shape) == 4 and shape[1:3] == (n_leads, 1)
    is_short = len(shape) == 3 and shape[1] == n_leads
    if (is_long or is_short) and shape[0] and shape[-1]:
        return int(shape[0]), int(shape[-1])
    transposed = len(shape) == 3 and shape[2] == n_leads
    remedy = "transpose it to records x leads x timesteps" if transposed else "write it anew in that shape"
    raise ValueError(f"{source}: {RECORDS_NAME} must have the shape (N, 12, 1, T) or (N, 12, T), got {shape}; {remedy}")


# ---------------------------------------------------------------------- labels


def _read_labels(config: CodeHdf5Config, n_records: int) -> tuple[LabelSet, NDArray[np.float32]]:
    source = config.labels_file or config.source
    with open_hdf5(Path(source), source) as file:
        dataset = find_dataset(file, LABELS_NAME, source, "name the file with the labels in --labels-file")
        shape, labels_NK = dataset.shape, np.asarray(dataset[()])
        own_names = [str(name) for name in file.attrs.get(_NAMES, ())]
    if len(shape) != 2 or shape[0] != n_records or not shape[1]:
        raise ValueError(
            f"{source}: {LABELS_NAME} must have the shape (N, C) with N = {n_records} as {RECORDS_NAME}, got {shape}"
        )
    bad_NK = (labels_NK != 0) & (labels_NK != 1)
    if bad_NK.any():
        row, column = np.argwhere(bad_NK)[0].tolist()
        raise ValueError(
            f"{source}: {LABELS_NAME}: row {row}, column {column} must be 0 or 1, got {labels_NK[row, column]:g}"
        )
    names = config.label_names or tuple(own_names) or tuple(f"class{column}" for column in range(shape[1]))
    if len(names) != shape[1]:
        raise ValueError(f"{source}: {LABELS_NAME} has {shape[1]} columns, but there are {len(names)} label names")
    return LabelSet(LABELS, "binary" if shape[1] == 1 else "multilabel", names), labels_NK.astype(np.float32)


def _check_rate(file: h5py.File, config: CodeHdf5Config) -> None:
    own = float(file.attrs.get(_RATE, config.fs_hz))
    if own != config.fs_hz:
        raise ValueError(f"{config.source} was exported at {own:g} Hz, but --fs-hz is {config.fs_hz:g}; correct it")


# ---------------------------------------------------------------------- writing it from a store


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    n_records: int
    n_left_out: int  # records without a label in the label set
    n_timesteps: int
    label_names: tuple[str, ...]


def export_code_hdf5(store: Path, label_set: str, out: Path, n_timesteps: int | None = None) -> Exported:
    """Write a store's records, in mV, and one of its label sets to `out`, shard by shard.

    `record_set` is (N, 12, 1, T) float32, `label_set` (N, C) float32; classes become one column each. Attributes say
    the names of the labels and the sampling rate. Records without a label are left out (of a multilabel set: none,
    as no label is an answer there).

    Args:
        n_timesteps: T, which is 6,144 in AdaGrad-Fusion; longer records lose their end, shorter ones end with zeros.
            None: as the store has it.

    Raises:
        ValueError: there is no such store, label set or lead, the labels are of a regression, `out` exists, or a shard
            is damaged; nothing is left on disk.
    """
    manifest = read_manifest(store)
    chosen = _check_export(manifest, store, label_set, out, n_timesteps)
    n_timesteps = n_timesteps or manifest.n_timesteps
    for shard in manifest.shards:
        verify_shard(store, shard)
    labels = [one_hot(read_table(store, shard).labels[label_set], chosen) for shard in manifest.shards]
    kept = [np.asarray(np.isfinite(labels_NK).all(axis=1)) for labels_NK in labels]
    n_records = sum(int(kept_N.sum()) for kept_N in kept)
    if not n_records:
        raise ValueError(f"{store}: no record has a label of {label_set!r}; choose another label set")
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.partial")
    try:
        with h5py.File(unfinished, "w") as file:
            file.create_dataset(RECORDS_NAME, (n_records, len(LEADS_12), 1, n_timesteps), np.float32)
            file.create_dataset(
                LABELS_NAME,
                data=np.concatenate([part_NK[good_N] for part_NK, good_N in zip(labels, kept, strict=True)]),
            )
            file.attrs.update({_NAMES: list(chosen.names), _RATE: manifest.fs_hz})
            _write_records(file[RECORDS_NAME], store, manifest, kept)
        os.replace(unfinished, out)
    finally:
        unfinished.unlink(missing_ok=True)
    return Exported(n_records, manifest.counts.n_records - n_records, n_timesteps, chosen.names)


def one_hot(labels_NK: NDArray[np.float32], label_set: LabelSet) -> NDArray[np.float32]:
    """Return a column for each label, of zeros and ones; NaN where a record has no label."""
    if label_set.task != "multiclass":
        return labels_NK
    columns_NK = (labels_NK == np.arange(label_set.n_outputs)).astype(np.float32)
    return np.where(np.isnan(labels_NK), np.float32(np.nan), columns_NK)


def _check_export(manifest: Manifest, store: Path, label_set: str, out: Path, n_timesteps: int | None) -> LabelSet:
    if label_set not in manifest.label_sets:
        raise ValueError(f"{store} has no label set {label_set!r}; it has: {', '.join(manifest.label_sets)}")
    if manifest.label_sets[label_set].task == "regression":
        raise ValueError(
            f"label set {label_set!r} is a regression, but {LABELS_NAME} has zeros and ones; choose another"
        )
    missing = [name for name in LEADS_12 if name not in manifest.lead_names]
    if missing:
        raise ValueError(f"{store} has no lead {missing[0]}, but {RECORDS_NAME} has all 12; choose another store")
    if n_timesteps is not None and n_timesteps < 1:
        raise ValueError(f"`n_timesteps >= 1` must hold, but got {n_timesteps}")
    if out.exists():
        raise ValueError(f"{out} exists; nothing is overwritten: choose another --out, or remove it")
    return manifest.label_sets[label_set]


def _write_records(dataset: h5py.Dataset, store: Path, manifest: Manifest, kept: list[NDArray[np.bool_]]) -> None:
    leads = [manifest.lead_names.index(name) for name in LEADS_12]
    row = 0
    for shard, kept_N in zip(manifest.shards, kept, strict=True):
        ecg_NLT = read_ecg(store, shard)[kept_N][:, leads, : dataset.shape[3]]
        dataset[row : row + len(ecg_NLT), :, 0, : ecg_NLT.shape[2]] = ecg_NLT
        row += len(ecg_NLT)
