"""PTB-XL as PhysioNet publishes it: `ptbxl_database.csv`, `scp_statements.csv` and WFDB records at 100 or 500 Hz.

Label sets follow the benchmark of Strodthoff et al. 2021 (doi:10.1109/JBHI.2020.3022989): the keys of `scp_codes`,
whatever their likelihood, mapped by `scp_statements.csv`; sorted labels that occur at least once. On v1.0.3 they are
all 71, diag 44, diag_subclass 23, diag_superclass 5, form 19, rhythm 12. Folds are the official `strat_fold`: 1-8
train, 9 validation, 10 test.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import wfdb
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data.dataset import LabelSet
from data.folds import ROLES
from data.reader import Header, RecordBlock

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
DURATION_S = 10
CHUNK_BYTES = 8 * 1024**2  # 174 records at 100 Hz: small sets are read in parallel too

_COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold")
_STATEMENT_COLUMNS = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
_MASKED_AGE = 300  # the data set's code for "over 89"


class PtbxlConfig(BaseModel):
    """Which of the two sampling rates, and what to do about files that are not there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the folder with ptbxl_database.csv")
    fs_hz: Literal[100, 500] = Field(100, description="sampling rate", json_schema_extra={"unit": "Hz"})
    skip_missing: bool = Field(False, description="leave out records whose files are not on disk")


class PtbxlReader:
    """Reads PTB-XL. Construction reads both tables and looks for every record's files.

    Raises:
        ValueError: a table is missing or malformed, or records are not on disk.
    """

    def __init__(self, config: PtbxlConfig) -> None:
        self._config = config
        self._folder = Path(config.source).absolute()  # workers run in other folders
        database = _read_csv(Path(config.source) / "ptbxl_database.csv", (*_COLUMNS, self._file_column))
        statements = _read_csv(Path(config.source) / "scp_statements.csv", _STATEMENT_COLUMNS, index_col=0)
        database, self._n_skipped = self._present(database)
        codes = [_parse_codes(text, ecg_id) for text, ecg_id in zip(database.scp_codes, database.ecg_id, strict=True)]
        _check_known(codes, database.ecg_id.tolist(), statements)
        labels = {name: _binarise(name, codes, mapping) for name, mapping in statement_mappings(statements).items()}
        self._labels = {name: pair for name, pair in labels.items() if pair[0].names}
        self._without_labels = sorted(labels.keys() - self._labels.keys())
        self._database = database

    @property
    def header(self) -> Header:
        notes = ["ages over 89, which the source masks as 300, are stored as 90"]
        if self._n_skipped:
            notes.append(f"{self._n_skipped} records of the database are left out, as their files were not on disk")
        notes += [f"label set {name} is left out, as none of its statements occurs" for name in self._without_labels]
        return Header(
            kind="ptbxl",
            source=self._config.source,
            lead_names=LEADS,
            fs_hz=float(self._config.fs_hz),
            n_timesteps=self._n_timesteps,
            label_sets={name: label_set for name, (label_set, _) in self._labels.items()},
            folds=ROLES,
            patients_known=True,
            notes=tuple(notes),
        )

    def chunks(self) -> Sequence[tuple[int, int]]:
        size = CHUNK_BYTES // (len(LEADS) * self._n_timesteps * 4)
        n_records = len(self._database)
        return [(start, min(start + size, n_records)) for start in range(0, n_records, size)]

    def read(self, chunk: tuple[int, int]) -> RecordBlock:
        rows = slice(*chunk)
        part = self._database.iloc[rows]
        age_N = part.age.to_numpy(np.float32)
        return RecordBlock(
            ecg_NLT=np.stack([self._read_record(name) for name in part[self._file_column]]),
            labels={name: labels_NK[rows] for name, (_, labels_NK) in self._labels.items()},
            record_ids=part.ecg_id.to_numpy(np.int64).astype(np.str_),
            patient_ids=part.patient_id.to_numpy(np.int64).astype(np.str_),
            folds=part.strat_fold.to_numpy(np.int16),
            meta={"age": np.where(age_N == _MASKED_AGE, np.float32(90), age_N), "sex": part.sex.to_numpy(np.float32)},
        )

    @property
    def _file_column(self) -> str:
        return "filename_lr" if self._config.fs_hz == 100 else "filename_hr"

    @property
    def _n_timesteps(self) -> int:
        return DURATION_S * self._config.fs_hz

    def _present(self, database: pd.DataFrame) -> tuple[pd.DataFrame, int]:
        """Return the records that are on disk, and how many are not."""
        names = database[self._file_column]
        present_N = np.array([_is_on_disk(self._folder / name) for name in names], dtype=bool)
        n_missing = int((~present_N).sum())
        if n_missing == len(names):
            raise ValueError(
                f"{self._config.source}: none of its {len(names)} records is on disk at {self._config.fs_hz} Hz; "
                "download them, or choose the other rate"
            )
        if n_missing and not self._config.skip_missing:
            raise ValueError(
                f"{self._config.source}: {n_missing} of {len(names)} records are not on disk, the first is "
                f"{names[~present_N].iloc[0]}.hea/.dat; "
                "download them, or leave them out with skip_missing (--skip-missing)"
            )
        return database[present_N].reset_index(drop=True), n_missing

    def _read_record(self, name: str) -> NDArray[np.float32]:
        """Read one WFDB record as ecg_LT in mV."""
        path = self._folder / name
        try:
            signal_TL, fields = wfdb.rdsamp(str(path))
        except (OSError, ValueError, IndexError, KeyError) as error:  # what wfdb raises on malformed files
            raise ValueError(f"{path}: can't be read as a WFDB record ({error}); download it anew") from error
        leads = tuple(lead.upper() for lead in fields["sig_name"])
        expected = (self._config.fs_hz, self._n_timesteps, tuple(lead.upper() for lead in LEADS), {"mV"})
        actual = (fields["fs"], fields["sig_len"], leads, set(fields["units"]))
        if actual != expected:
            raise ValueError(f"{path}: fs, timesteps, leads and units must be {expected}, got {actual}")
        return np.ascontiguousarray(signal_TL.T, np.float32)


def statement_mappings(statements: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return, for each label set, which label each SCP statement stands for; statements without one are absent."""

    def flagged(column: str) -> list[str]:
        return [str(code) for code in statements.index[statements[column] == 1]]

    def mapped(column: str) -> dict[str, str]:
        labels = statements[column]
        return {code: str(labels[code]) for code in flagged("diagnostic") if isinstance(labels[code], str)}

    return {
        "all": {str(code): str(code) for code in statements.index},
        "diag": {code: code for code in flagged("diagnostic")},
        "diag_subclass": mapped("diagnostic_subclass"),
        "diag_superclass": mapped("diagnostic_class"),
        "form": {code: code for code in flagged("form")},
        "rhythm": {code: code for code in flagged("rhythm")},
    }


def _binarise(
    name: str, codes: Sequence[Mapping[str, float]], mapping: Mapping[str, str]
) -> tuple[LabelSet, NDArray[np.float32]]:
    labels = [{mapping[code] for code in record if code in mapping} for record in codes]
    names = tuple(sorted(set().union(*labels)))
    labels_NK = np.array([[label in record for label in names] for record in labels], dtype=np.float32)
    return LabelSet(name, "multilabel", names), labels_NK.reshape(len(codes), len(names))


def _read_csv(path: Path, columns: Sequence[str], index_col: int | None = None) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, index_col=index_col)
    except OSError as error:
        raise ValueError(
            f"{path} can't be read ({error.strerror}); the folder of PTB-XL as published is needed"
        ) from None
    except ValueError as error:  # pandas' parser errors
        raise ValueError(f"{path} is no CSV table ({error}); download it anew") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; the table as published is needed")
    return table


def _parse_codes(text: str, ecg_id: int) -> dict[str, float]:
    try:
        codes = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        codes = None
    if not isinstance(codes, dict):
        raise ValueError(f"ptbxl_database.csv: ecg_id {ecg_id}: scp_codes must be a dict of statements, got {text!r}")
    return codes


def _check_known(codes: Sequence[Mapping[str, float]], ecg_ids: Sequence[int], statements: pd.DataFrame) -> None:
    known = set(statements.index)
    for record, ecg_id in zip(codes, ecg_ids, strict=True):
        unknown = sorted(set(record) - known)
        if unknown:
            raise ValueError(
                f"ptbxl_database.csv: ecg_id {ecg_id}: statement {unknown[0]!r} is not in scp_statements.csv"
            )


def _is_on_disk(record: Path) -> bool:
    return record.with_name(f"{record.name}.hea").is_file() and record.with_name(f"{record.name}.dat").is_file()
