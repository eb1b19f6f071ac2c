"""HuBERT-ECG's tables: one CSV a part, `.npy` arrays of 12 leads x any number of timesteps, labels in the last columns.

`filename` is the first column; `age`, `sex` and `patient_id` (`Patient_ID`) are known by their names; labels begin at
`label_start_index`. Their order differs between the published CSVs, so it is read from each header. The parts become
folds: SOURCE 1-8, `--val` 9, `--test` 10; a part that is missing is taken from SOURCE by stratification, but for the
test part where only a validation part is given. Format: https://github.com/Edoar-do/HuBERT-ECG.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import LabelSet, Task
from data.folds import N_FOLDS, ROLES, stratified_folds
from data.leads import LEADS_12
from data.metadata import Sex, parse_age_and_sex, parse_patients, read_csv, texts_of
from data.numpy_record import check_not_all_transposed, read_npy
from data.reader import Header
from data.record_reader import Index, RecordConfig, RecordReader

LABEL_SET = "label"
MOST_CLASSES = 100  # a column of whole numbers with more is a quantity rather than a class


class Split(NamedTuple):
    """What the parts become: SOURCE as many folds as `n_train_folds`, each other part one of `other_folds`."""

    n_train_folds: int
    other_folds: tuple[int, ...]
    roles: Mapping[str, tuple[int, ...]]
    note: str


_SPLITS = {
    ("train",): Split(10, (), ROLES, "folds are stratified by label, and by patient where patients are known"),
    ("train", "val"): Split(8, (9,), {**ROLES, "test": ()}, "fold 9 is the validation part; there is no test part"),
    ("train", "test"): Split(9, (10,), ROLES, "fold 10 is the test part; validation is fold 9 of the training part"),
    ("train", "val", "test"): Split(8, (9, 10), ROLES, "folds 9 and 10 are the validation and the test part"),
}
_NO_LABELS = ("filename", "age", "sex", "patient_id", "strat_fold")


class HubertCsvConfig(RecordConfig):
    """Which tables, and what they don't say of themselves."""

    source: str = Field(description="CSV of the training part, or of all records")
    fs_hz: float = Field(
        500, gt=0, le=10_000, description="sampling rate of the arrays, and of the store",
        json_schema_extra={"unit": "Hz"},
    )  # fmt: skip
    duration_s: float = Field(
        10, gt=0, description="length of the store's records: longer ones lose their end, shorter ones are padded",
        json_schema_extra={"unit": "s"},
    )  # fmt: skip
    val: str | None = Field(None, description="CSV of the validation part")
    test: str | None = Field(None, description="CSV of the test part")
    root: str | None = Field(None, description="folder that file names are relative to; each CSV's own if left out")
    label_start_index: int = Field(3, ge=1, description="index of the first label column, from 0")
    task: Task | None = Field(
        None, description="binary, multilabel, multiclass or regression; if left out: several columns are multilabel, "
        "one of whole numbers multiclass, one of real numbers regression",
    )  # fmt: skip
    sex_one: Sex = Field("female", description="what a 1 in the column sex stands for, male or female")
    seed: int = Field(18, ge=0, description="seed of the folds")


@dataclass(frozen=True)
class Part:
    """One CSV. N records, C columns of labels as the table has them."""

    source: str
    role: Literal["train", "val", "test"]
    paths: list[Path]
    record_ids: list[str]
    patient_ids: NDArray[np.str_] | None
    columns: tuple[str, ...]
    values_NC: NDArray[np.float64]
    meta: Mapping[str, NDArray[np.float32]]
    official_folds: NDArray[np.int16] | None


def build_reader(config: HubertCsvConfig) -> RecordReader:
    """Read the tables.

    Raises:
        ValueError: a table is missing or malformed, a record or a patient is in two of them, or no array is there.
    """
    parts = _read_parts(config)
    _check_parts(parts)
    paths = [path for part in parts for path in part.paths]
    _check_on_disk(paths, config)
    values_NC = np.concatenate([_in_order(part, parts[0].columns) for part in parts])
    label_set, labels_NK = _parse_labels(values_NC, parts[0].columns, config)
    record_ids = np.array([record_id for part in parts for record_id in part.record_ids], np.str_)
    patients = [part.patient_ids for part in parts if part.patient_ids is not None]
    patient_ids = np.concatenate(patients) if len(patients) == len(parts) else record_ids
    folds_N, roles, note = _folds(parts, _strata(labels_NK, label_set), patient_ids, config.seed)
    notes = [note, "values are taken as mV; HuBERT-ECG's own preprocessing scales every lead to -1..1"]
    if patient_ids is record_ids:
        notes.append("patients are unknown: a patient's records may be in several folds")
    header = Header(
        kind="hubert_csv",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={LABEL_SET: label_set},
        folds=roles,
        patients_known=patient_ids is not record_ids,
        notes=tuple(notes),
    )
    index = Index(
        places=[str(path) for path in paths],
        record_ids=record_ids,
        patient_ids=patient_ids,
        folds=folds_N,
        labels={LABEL_SET: labels_NK},
        meta=_join_meta(parts),
    )
    read_record = partial(read_npy, lead_names=LEADS_12, fs_hz=config.fs_hz)
    return RecordReader(header, index, read_record, config.nan)


# ---------------------------------------------------------------------- the tables


def _read_parts(config: HubertCsvConfig) -> list[Part]:
    parts = [_read_part(config.source, "train", config)]
    if config.val is not None:
        parts.append(_read_part(config.val, "val", config))
    if config.test is not None:
        parts.append(_read_part(config.test, "test", config))
    return parts


def _read_part(source: str, role: Literal["train", "val", "test"], config: HubertCsvConfig) -> Part:
    table = read_csv(Path(source))
    _check_columns(table, source, config.label_start_index)
    names = texts_of(table["filename"])
    root = Path(source).parent if config.root is None else Path(config.root)
    label_columns = [str(column) for column in table.columns[config.label_start_index :]]
    other = table.iloc[:, : config.label_start_index]
    return Part(
        source=source,
        role=role,
        paths=[root.absolute() / name for name in names],  # workers run in other folders
        record_ids=[name.removesuffix(".npy") for name in names],
        patient_ids=parse_patients(other, source),
        columns=tuple(label_columns),
        values_NC=table[label_columns].to_numpy(np.float64),
        meta=parse_age_and_sex(other, names, source, config.sex_one),
        official_folds=_official_folds(other),
    )


def _check_columns(table: pd.DataFrame, source: str, label_start_index: int) -> None:
    if table.columns[0] != "filename":
        raise ValueError(f"{source}: the first column must be 'filename', got {table.columns[0]!r}")
    if label_start_index >= len(table.columns):
        raise ValueError(
            f"{source} has {len(table.columns)} columns, so no label begins at {label_start_index}; "
            "correct --label-start-index"
        )
    for position, column in enumerate(table.columns[label_start_index:], start=label_start_index):
        if str(column).lower() in _NO_LABELS or not pd.api.types.is_numeric_dtype(table[column]):
            raise ValueError(
                f"{source}: column {column!r} can't be a label, as it {_why_no_label(table, str(column))}; labels come "
                f"last, from --label-start-index on, which is {label_start_index} (this column is number {position})"
            )


def _why_no_label(table: pd.DataFrame, column: str) -> str:
    if column.lower() in _NO_LABELS:
        return "describes the record"
    numbers = pd.to_numeric(table[column], errors="coerce")
    return f"has the value {table[column][numbers.isna()].iloc[0]!r}"


def _official_folds(table: pd.DataFrame) -> NDArray[np.int16] | None:
    """Return PTB-XL's own folds, where the table has all ten."""
    if "strat_fold" not in table.columns or set(table["strat_fold"]) != set(range(1, N_FOLDS + 1)):
        return None
    return table["strat_fold"].to_numpy(np.int16)


def _check_parts(parts: Sequence[Part]) -> None:
    for part in parts:
        if sorted(part.columns) != sorted(parts[0].columns):
            odd = sorted(set(part.columns) ^ set(parts[0].columns))
            raise ValueError(
                f"{part.source} and {parts[0].source} must have the same labels, but {odd[0]!r} is in one only"
            )
    for one, other in combinations(parts, 2):
        _check_disjoint(one, other, "record", set(one.record_ids) & set(other.record_ids))
        if one.patient_ids is not None and other.patient_ids is not None:
            both = set(one.patient_ids.tolist()) & set(other.patient_ids.tolist())
            _check_disjoint(one, other, "patient", both)


def _check_disjoint(one: Part, other: Part, what: str, both: set[str]) -> None:
    if both:
        raise ValueError(
            f"{one.source} and {other.source} share {len(both)} {what}s, the first is {min(both)}; a {what} must be "
            f"in one part only: take it out of one, or leave --{other.role} out for folds that are disjoint"
        )


def _check_on_disk(paths: Sequence[Path], config: HubertCsvConfig) -> None:
    if not any(path.is_file() for path in paths):
        raise ValueError(
            f"{config.source}: none of its arrays is on disk, the first is {paths[0]}; name the folder that file "
            "names are relative to with --root"
        )
    check_not_all_transposed(paths, len(LEADS_12), config.source)


def _in_order(part: Part, columns: Sequence[str]) -> NDArray[np.float64]:
    return part.values_NC[:, [part.columns.index(column) for column in columns]]


def _join_meta(parts: Sequence[Part]) -> dict[str, NDArray[np.float32]]:
    names = {name: None for part in parts for name in part.meta}
    unknown = [np.full(len(part.record_ids), np.nan, np.float32) for part in parts]
    return {
        name: np.concatenate([part.meta.get(name, nan_N) for part, nan_N in zip(parts, unknown, strict=True)])
        for name in names
    }


# ---------------------------------------------------------------------- labels


def _parse_labels(
    values_NC: NDArray[np.float64], columns: tuple[str, ...], config: HubertCsvConfig
) -> tuple[LabelSet, NDArray[np.float32]]:
    task = _guess_task(values_NC, config) if config.task is None else config.task
    if task in ("multiclass", "binary") and len(columns) > 1:
        raise ValueError(f"{config.source}: task {task} has one label column, but there are {len(columns)}")
    if task == "multiclass":
        return _parse_classes(values_NC, columns[0], config)
    bad_NC = ~np.isin(values_NC, (0, 1))
    if task != "regression" and bad_NC.any():
        row, column = np.argwhere(bad_NC)[0]
        raise ValueError(
            f"{config.source}: label {columns[column]!r} must be 0 or 1, got {values_NC[row, column]:g}; "
            "is it the first label (--label-start-index), and is it a class or a quantity (--task)?"
        )
    return LabelSet(LABEL_SET, task, columns), values_NC.astype(np.float32)


def _guess_task(values_NC: NDArray[np.float64], config: HubertCsvConfig) -> Task:
    if values_NC.shape[1] > 1:
        return "multilabel"
    known = values_NC[np.isfinite(values_NC)]
    if (known % 1 != 0).any():
        return "regression"
    if len(np.unique(known)) > MOST_CLASSES:
        raise ValueError(
            f"{config.source}: the label has {len(np.unique(known))} whole numbers, so it may be a class or a "
            "quantity; say which with --task multiclass or --task regression"
        )
    return "multiclass"


def _parse_classes(
    values_NC: NDArray[np.float64], column: str, config: HubertCsvConfig
) -> tuple[LabelSet, NDArray[np.float32]]:
    """Number the classes that occur in ascending order; an empty cell stays unknown."""
    known_N = np.isfinite(values_NC[:, 0])
    classes = np.unique(values_NC[known_N])
    if (classes % 1 != 0).any():
        odd = classes[classes % 1 != 0][0]
        raise ValueError(f"{config.source}: classes of {column!r} must be whole numbers, got {odd:g}")
    codes_N = np.full(len(values_NC), np.nan, np.float32)
    codes_N[known_N] = np.searchsorted(classes, values_NC[known_N, 0])
    names = tuple(f"{column} {number:g}" for number in classes)
    return LabelSet(LABEL_SET, "multiclass", names), codes_N[:, np.newaxis]


def _strata(labels_NK: NDArray[np.float32], label_set: LabelSet) -> NDArray[np.float64]:
    """Return 0/1 columns that folds are stratified by: labels, classes, or fifths of the first target."""
    if label_set.task in ("binary", "multilabel"):
        return labels_NK.astype(np.float64)
    values_N = labels_NK[:, 0]
    if label_set.task == "multiclass":
        return np.asarray(values_N[:, np.newaxis] == np.arange(label_set.n_outputs), np.float64)
    edges = np.nanquantile(values_N, [0.2, 0.4, 0.6, 0.8])
    return np.eye(len(edges) + 1)[np.searchsorted(edges, values_N)] * np.isfinite(values_N)[:, np.newaxis]


# ---------------------------------------------------------------------- folds


def _folds(
    parts: Sequence[Part], strata_NK: NDArray[np.float64], patient_ids: NDArray[np.str_], seed: int
) -> tuple[NDArray[np.int16], Mapping[str, tuple[int, ...]], str]:
    """Return each record's fold, which folds are for what, and a note on where they come from."""
    train, *others = parts
    if not others and train.official_folds is not None:
        return train.official_folds, ROLES, "folds are those of the column strat_fold"
    split = _SPLITS[tuple(part.role for part in parts)]
    n_train = len(train.record_ids)
    folds = [stratified_folds(strata_NK[:n_train], patient_ids[:n_train], seed, split.n_train_folds)]
    folds += [
        np.full(len(part.record_ids), fold, np.int16) for part, fold in zip(others, split.other_folds, strict=True)
    ]
    return np.concatenate(folds), split.roles, split.note
