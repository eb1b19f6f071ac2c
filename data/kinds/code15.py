"""CODE-15 %, 345,779 exams of 233,770 patients in Brazil, as on Zenodo (doi:10.5281/zenodo.4916206) or exam by exam.

SOURCE holds `exams.csv` and `exams_part*.hdf5` (`exam_id` (n,), `tracings` (n, 4096, 12); each file's last row is
empty and has the id 0), or `meta.csv`, which has the same columns, and one `.mat` file an exam in `org/` or beside it.
Exams of 7 and 10 s stand in the middle of 4,096 timesteps; the zeros on both sides are taken off.

The publisher's text on the unit contradicts itself ("scale 1e-4V", but also volts times 1000, which is mV). Values are
taken as mV: with medians over leads of 2 to 4 from peak to peak they would be no ECG in tenths of a mV.
"""

from __future__ import annotations

import ast
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.io
from numpy.typing import NDArray
from pydantic import Field
from scipy.io.matlab import MatReadError

from data.dataset import LabelSet
from data.folds import ROLES, stratified_folds
from data.hdf5_rows import Hdf5Rows, find_dataset, open_hdf5
from data.leads import LEADS_12
from data.metadata import read_csv
from data.reader import Header, Quarantined
from data.record_reader import UNREADABLE, Index, RawRecord, RecordConfig, RecordReader

FS_HZ = 400.0
DIAGNOSES = ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF")
LABEL_SETS = {
    each.name: each
    for each in (
        LabelSet("diagnosis", "multilabel", DIAGNOSES),
        LabelSet("ecg_fm", "multilabel", ("is_male", *DIAGNOSES, "normal_ecg")),  # in ECG-FM's order
        LabelSet("normal", "binary", ("normal_ecg",)),
        LabelSet("sex", "binary", ("is_male",)),
        LabelSet("age", "regression", ("age",), ("years",)),
    )
}
_FLAGS = ("is_male", *DIAGNOSES, "normal_ecg")
_COLUMNS = ("exam_id", "patient_id", "age", "trace_file", *_FLAGS)
_MAT_COLUMNS = ("save_file", "lead_order")
_TRUTH = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0, "1": 1.0, "0": 0.0}  # 1 and 0 are equal to True and False
_DOWNLOAD = "download it (https://zenodo.org/records/4916206)"
_UNIT_NOTE = "values are taken as mV; QRS complexes come out 1.6 to 2 times as tall as in other data sets"


class Code15Config(RecordConfig):
    """How exams are stored, and what to do about files that are not there."""

    source: str = Field(description="the folder with exams.csv and exams_part*.hdf5, or with meta.csv and org/*.mat")
    fs_hz: float = Field(
        FS_HZ, gt=0, le=10_000, description="sampling rate of the store; exams have 400 Hz",
        json_schema_extra={"unit": "Hz"},
    )  # fmt: skip
    duration_s: float = Field(
        10.24, gt=0, description="length of the store's records: longer ones lose their end, shorter ones are padded",
        json_schema_extra={"unit": "s"},
    )  # fmt: skip
    skip_missing: bool = Field(False, description="leave out exams whose files are not on disk")
    seed: int = Field(18, ge=0, description="seed of the folds")


class MatPlace(NamedTuple):
    """Where a single exam lies, and what its rows are."""

    path: str
    lead_names: tuple[str, ...]


class RowPlace(NamedTuple):
    """Where an exam lies in a file of many."""

    path: str
    row: int


@dataclass(frozen=True)
class Located:
    """The exams whose signal was found: a row of the table and a place each."""

    exams: pd.DataFrame
    places: Sequence[RowPlace] | Sequence[MatPlace]
    n_missing: int  # exams whose file is not on disk
    quarantined: tuple[Quarantined, ...] = field(default=())


def build_reader(config: Code15Config) -> RecordReader:
    """Read the table of exams, and find where each one's signal lies.

    Raises:
        ValueError: the table or a file is missing or malformed, or there are fewer than ten patients.
    """
    folder = Path(config.source).absolute()  # workers run in other folders
    read_record: Callable[[Any], RawRecord]
    if (folder / "exams.csv").is_file():
        located, read_record = _locate_rows(folder, config), ExamRows()
    elif (folder / "meta.csv").is_file():
        located, read_record = _locate_mats(folder, config), read_mat
    else:
        raise ValueError(f"{config.source} has neither exams.csv nor meta.csv; name the folder of CODE-15 %")
    flags = {column: _parse_flags(located.exams, column) for column in _FLAGS}
    patient_ids = located.exams.patient_id.astype(np.int64).to_numpy().astype(np.str_)
    folds_N = stratified_folds(_columns(flags, (*DIAGNOSES, "normal_ecg")), patient_ids, config.seed)
    age_N = _parse_numbers(located.exams, "age")
    index = Index(
        places=located.places,
        record_ids=located.exams.exam_id.to_numpy(np.int64).astype(np.str_),
        patient_ids=patient_ids,
        folds=folds_N,
        labels={
            name: age_N[:, np.newaxis] if name == "age" else _columns(flags, label_set.names)
            for name, label_set in LABEL_SETS.items()
        },
        meta={"age": age_N, "sex": 1 - flags["is_male"], **_follow_up(located.exams)},
    )
    return RecordReader(_header(config, located.n_missing), index, read_record, config.nan, located.quarantined)


class ExamRows:
    """Reads an exam from a row of a file of many: its timesteps come first, and zeros pad it."""

    def __init__(self) -> None:
        self._rows = Hdf5Rows("tracings")

    def __call__(self, place: RowPlace) -> RawRecord:
        return RawRecord(strip_zeros(self._rows.read(*place).T), FS_HZ, LEADS_12)


def read_mat(place: MatPlace) -> RawRecord:
    """Read a single exam: `feats` (12, T) at `curr_sample_rate` Hz.

    Raises:
        ValueError: it can't be read.
    """
    try:
        exam = scipy.io.loadmat(place.path)
        ecg_LT, fs_hz = exam["feats"], float(exam["curr_sample_rate"].item())
    except (*UNREADABLE, MatReadError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"can't be read as a .mat exam ({type(error).__name__}: {error}); fetch it anew") from error
    return RawRecord(strip_zeros(ecg_LT), fs_hz, place.lead_names)


def strip_zeros(ecg_LT: NDArray[Any]) -> NDArray[Any]:
    """Take off the timesteps at both ends at which all leads are exactly zero."""
    signal = np.flatnonzero((ecg_LT != 0).any(axis=0))
    return ecg_LT[:, signal[0] : signal[-1] + 1] if len(signal) else ecg_LT[:, :0]


def _locate_rows(folder: Path, config: Code15Config) -> Located:
    """Look the exams up in the parts that are on disk."""
    exams = _read_exams(folder / "exams.csv", _COLUMNS)
    parts = sorted(folder.glob("exams_part*.hdf5"))
    if not parts:
        raise ValueError(f"{config.source} has no exams_part*.hdf5; {_DOWNLOAD}")
    rows = pd.concat([_exam_rows(path) for path in parts])
    found = exams.merge(rows, on="exam_id", how="left")
    lost_N, absent_N = found.row.isna(), ~found.trace_file.isin([path.name for path in parts])
    n_missing = _check_missing(found.trace_file[absent_N & lost_N], config)
    unlisted = rows[~rows.exam_id.isin(exams.exam_id)]
    kept = found[~lost_N].sort_values(["path", "row"], kind="stable")
    return Located(
        kept,
        [RowPlace(path, row) for path, row in zip(kept.path, kept.row.astype(int).tolist(), strict=True)],
        n_missing,
        (
            *(
                Quarantined(str(exam.exam_id), f"{exam.trace_file} has no such exam")
                for exam in found[lost_N & ~absent_N].itertuples()
            ),
            *(
                Quarantined(str(exam.exam_id), f"{Path(str(exam.path)).name} has it, but exams.csv has no such exam")
                for exam in unlisted.itertuples()
            ),
        ),
    )


def _exam_rows(path: Path) -> pd.DataFrame:
    """Return which exam each row of a part is; the empty row at its end has no id."""
    with open_hdf5(path, path.name) as file:
        ids_N = find_dataset(file, "exam_id", path.name, _DOWNLOAD)[:].astype(np.int64)
        shape = find_dataset(file, "tracings", path.name, _DOWNLOAD).shape
    if len(shape) != 3 or shape[0] != len(ids_N) or shape[2] != len(LEADS_12):
        raise ValueError(
            f"{path.name}: tracings must be exams x timesteps x 12 leads of {len(ids_N)} exams, got {shape}; "
            f"{_DOWNLOAD} anew"
        )
    rows = np.flatnonzero(ids_N)
    return pd.DataFrame({"exam_id": ids_N[rows], "path": str(path), "row": rows})


def _locate_mats(folder: Path, config: Code15Config) -> Located:
    """Look for every exam's own file."""
    exams = _read_exams(folder / "meta.csv", (*_COLUMNS, *_MAT_COLUMNS))
    inside = folder / "org"
    paths = [(inside if inside.is_dir() else folder) / str(name) for name in exams.save_file]
    present_N = np.array([path.is_file() for path in paths])
    n_missing = _check_missing(exams.save_file[~present_N], config)
    kept = exams[present_N]
    leads = [_parse_leads(text, exam) for text, exam in zip(kept.lead_order, kept.exam_id, strict=True)]
    places = [
        MatPlace(str(paths[row]), names) for row, names in zip(np.flatnonzero(present_N).tolist(), leads, strict=True)
    ]
    return Located(kept, places, n_missing)


def _check_missing(files: pd.Series[str], config: Code15Config) -> int:
    """Return how many exams are not on disk, given their files' names."""
    if len(files) and not config.skip_missing:
        raise ValueError(
            f"{config.source}: the files of {len(files)} exams are not on disk, the first is {files.iloc[0]}; "
            f"{_DOWNLOAD}, or leave them out with skip_missing (--skip-missing)"
        )
    return len(files)


def _read_exams(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    exams = read_csv(path)
    missing = [column for column in columns if column not in exams.columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; the table as published is needed")
    for column in ("exam_id", "patient_id"):
        if not pd.api.types.is_integer_dtype(exams[column]):
            bad = pd.to_numeric(exams[column], errors="coerce").isna()
            raise ValueError(
                f"{path}: row {int(np.argmax(bad)) + 2}: {column} must be a whole number, "
                f"got {exams[column].iloc[int(np.argmax(bad))]!r}"
            )
    return exams


def _parse_flags(exams: pd.DataFrame, column: str, *, may_be_empty: bool = False) -> NDArray[np.float32]:
    """Return a column of 0 and 1; where cells may be empty, NaN of those."""
    flags_N = exams[column].map(_TRUTH).to_numpy(np.float32)
    _check_known(np.where(may_be_empty & exams[column].isna(), 0, flags_N), exams, column, "True or False")
    return flags_N


def _parse_numbers(exams: pd.DataFrame, column: str) -> NDArray[np.float32]:
    """Return a column of numbers, NaN where the cell is empty."""
    numbers_N = pd.to_numeric(exams[column], errors="coerce").to_numpy(np.float32)
    _check_known(np.where(exams[column].isna(), 0, numbers_N), exams, column, "a number")
    return numbers_N


def _check_known(values_N: NDArray[np.floating[Any]], exams: pd.DataFrame, column: str, rule: str) -> None:
    if np.isnan(values_N).any():
        bad = exams.iloc[int(np.argmax(np.isnan(values_N)))]
        raise ValueError(f"exam {bad.exam_id}: {column} must be {rule}, got {bad[column]!r}; correct the table")


def _parse_leads(text: object, exam_id: int) -> tuple[str, ...]:
    try:
        return tuple(str(name) for name in ast.literal_eval(str(text)))
    except (ValueError, SyntaxError, TypeError):
        raise ValueError(f"meta.csv: exam {exam_id}: lead_order must be a list of names, got {text!r}") from None


def _columns(flags: dict[str, NDArray[np.float32]], names: Sequence[str]) -> NDArray[np.float32]:
    return np.stack([flags[name] for name in names], axis=1)


def _follow_up(exams: pd.DataFrame) -> dict[str, NDArray[np.float32]]:
    """Return death (0 or 1) and the years until it or to the last follow-up: of each patient's first exam alone."""
    meta = {}
    if "death" in exams.columns:
        meta["death"] = _parse_flags(exams, "death", may_be_empty=True)
    if "timey" in exams.columns:
        meta["timey"] = _parse_numbers(exams, "timey")
    return meta


def _header(config: Code15Config, n_missing: int) -> Header:
    notes = [_UNIT_NOTE]
    if n_missing:
        notes.append(f"{n_missing} exams of the table are left out, as their files were not on disk")
    return Header(
        kind="code15",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets=LABEL_SETS,
        folds=ROLES,
        patients_known=True,
        notes=tuple(notes),
    )
