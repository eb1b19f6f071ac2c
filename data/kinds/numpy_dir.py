"""A folder of `.npy` arrays, leads x timesteps in mV, with a CSV of labels, or without one for pretraining.

The CSV's first column names each record's file, with or without `.npy`, relative to the folder; `patient_id`, `age`
and `sex` are known by their names, and every other column is a label of 0 or 1. Without a CSV the store has no label
set: all arrays of the folder are taken in, and folds 1-10 are random.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator

from data.dataset import LabelSet, Task
from data.folds import ROLES, stratified_folds
from data.leads import LEADS_12
from data.metadata import find_column, parse_age_and_sex, parse_patients, read_csv, texts_of
from data.numpy_record import check_not_all_transposed, read_npy
from data.reader import Header, Quarantined
from data.record_reader import Index, RecordConfig, RecordReader

LABEL_SET = "label"
SUFFIX = ".npy"

_NO_LABELS = ("patient_id", "age", "sex")


def _split_names(names: Any) -> Any:
    return names.split(",") if isinstance(names, str) else names


class NumpyDirConfig(RecordConfig):
    """What the arrays don't say of themselves."""

    source: str = Field(description="folder with .npy arrays, at any depth")
    fs_hz: float = Field(
        gt=0, le=10_000, description="sampling rate of the arrays, and of the store", json_schema_extra={"unit": "Hz"}
    )
    labels: str | None = Field(
        None, description="CSV: file, then 0/1 columns; also patient_id, age, sex; none: unlabelled, for pretraining"
    )
    leads: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = Field(
        LEADS_12, min_length=1, description="names of the arrays' leads in their order, between commas; the usual 12"
    )
    seed: int = Field(18, ge=0, description="seed of the folds")

    @field_validator("leads")
    @classmethod
    def _check_leads(cls, leads: tuple[str, ...]) -> tuple[str, ...]:
        names = [lead.strip() for lead in leads]
        if "" in names or len({name.lower() for name in names}) < len(names):
            raise ValueError(f"every lead needs a name of its own, got {','.join(leads)}")
        return tuple(names)


def build_reader(config: NumpyDirConfig) -> RecordReader:
    """Read the table, and find the arrays.

    Raises:
        ValueError: there are no arrays, all are transposed, or the table is malformed.
    """
    folder = Path(config.source).absolute()  # workers run in other folders
    paths = {path.relative_to(folder).as_posix().removesuffix(SUFFIX): path for path in _find_arrays(folder, config)}
    check_not_all_transposed(paths.values(), len(config.leads), config.source)
    if config.labels is None:
        return _build(config, _unlabelled_index(paths, config), None, ("unlabelled: for pretraining",), ())
    table = read_csv(Path(config.labels))
    ids = [text.removesuffix(SUFFIX) for text in texts_of(table.iloc[:, 0])]
    _check_ids(ids, config)
    here_N = np.array([record_id in paths for record_id in ids])
    if not here_N.any():
        raise ValueError(
            f"{config.labels}: none of its {len(ids)} records is in {config.source}, the first is {ids[0]!r}; "
            "the first column must name files relative to that folder"
        )
    missing = [Quarantined(ids[row], f"{ids[row]}{SUFFIX} is not on disk") for row in np.flatnonzero(~here_N)]
    label_set, index = _labelled_index(table[here_N], [ids[row] for row in np.flatnonzero(here_N)], paths, config)
    n_unnamed = len(paths) - len(index)
    notes = (f"{n_unnamed} arrays are left out, as {config.labels} has no row for them",) if n_unnamed else ()
    return _build(config, index, label_set, notes, missing)


def _build(
    config: NumpyDirConfig,
    index: Index,
    label_set: LabelSet | None,
    notes: tuple[str, ...],
    missing: Sequence[Quarantined],
) -> RecordReader:
    patients_known = index.patient_ids is not index.record_ids
    leak = "patients are unknown: a patient's records may be in several folds"
    header = Header(
        kind="numpy_dir",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=config.leads,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={} if label_set is None else {label_set.name: label_set},
        folds=ROLES,
        patients_known=patients_known,
        notes=notes if patients_known else (*notes, leak),
    )
    read_record = partial(read_npy, lead_names=config.leads, fs_hz=config.fs_hz)
    return RecordReader(header, index, read_record, config.nan, missing)


def _find_arrays(folder: Path, config: NumpyDirConfig) -> list[Path]:
    paths = sorted(folder.rglob(f"*{SUFFIX}"))
    if not paths:
        raise ValueError(f"{config.source} has no {SUFFIX} arrays; a folder with one array a record is needed")
    return paths


def _unlabelled_index(paths: dict[str, Path], config: NumpyDirConfig) -> Index:
    record_ids = np.array([*paths], np.str_)
    return Index(
        places=[str(path) for path in paths.values()],
        record_ids=record_ids,
        patient_ids=record_ids,
        folds=stratified_folds(np.zeros((len(paths), 1)), record_ids, config.seed),
        labels={},
    )


def _labelled_index(
    table: pd.DataFrame, ids: Sequence[str], paths: dict[str, Path], config: NumpyDirConfig
) -> tuple[LabelSet, Index]:
    source = str(config.labels)
    record_ids = np.array(ids, np.str_)
    patients = parse_patients(table, source)
    patient_ids = record_ids if patients is None else patients
    label_set, labels_NK = _parse_labels(table, ids, source)
    index = Index(
        places=[str(paths[record_id]) for record_id in ids],
        record_ids=record_ids,
        patient_ids=patient_ids,
        folds=stratified_folds(labels_NK, patient_ids, config.seed),
        labels={label_set.name: labels_NK},
        meta=parse_age_and_sex(table, ids, source),
    )
    return label_set, index


def _parse_labels(table: pd.DataFrame, ids: Sequence[str], source: str) -> tuple[LabelSet, NDArray[np.float32]]:
    others = {find_column(table, name) for name in _NO_LABELS}
    columns = [column for column in table.columns[1:] if column not in others]
    if not columns:
        raise ValueError(f"{source} has no label column; add one of 0 and 1, or leave --labels out for pretraining")
    for column in columns:
        bad_N = ~table[column].isin([0, 1]).to_numpy()
        if bad_N.any():
            row = int(np.argmax(bad_N))
            raise ValueError(
                f"{source}: {ids[row]}: label {column!r} must be 0 or 1, got {texts_of(table[column])[row]!r}; "
                f"other columns than {', '.join(_NO_LABELS)} are labels"
            )
    names = tuple(str(column) for column in columns)
    task: Task = "binary" if len(names) == 1 else "multilabel"
    return LabelSet(LABEL_SET, task, names), table[columns].to_numpy(np.float32)


def _check_ids(ids: Sequence[str], config: NumpyDirConfig) -> None:
    seen: set[str] = set()
    for row, record_id in enumerate(ids, start=2):
        if record_id in seen:
            raise ValueError(f"{config.labels}: row {row}: {record_id!r} has a row before; a record has one row")
        seen.add(record_id)
