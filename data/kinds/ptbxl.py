"""PTB-XL as PhysioNet publishes it: `ptbxl_database.csv`, `scp_statements.csv` and WFDB records at 100 or 500 Hz.

Label sets follow the benchmark of Strodthoff et al. 2021 (doi:10.1109/JBHI.2020.3022989): the keys of `scp_codes`,
whatever their likelihood, mapped by `scp_statements.csv`; sorted labels that occur at least once. On v1.0.3 they are
all 71, diag 44, diag_subclass 23, diag_superclass 5, form 19, rhythm 12; `data.labels` takes the benchmark's own names
of them too (`data.loading.LABEL_SET_SPELLINGS`). Three more are of one label a record: `superclass` of the records with
exactly one superclass, `sex` and `age`. Folds are the official `strat_fold`: 1-8 train, 9 validation, 10 test.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import LabelSet
from data.folds import ROLES
from data.leads import LEADS_12
from data.reader import Header
from data.record_reader import Index, RecordConfig, RecordReader
from data.wfdb_record import read_wfdb

_COLUMNS = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold")
_STATEMENT_COLUMNS = ("diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
_MASKED_AGE = 300  # the data set's code for "over 89"


class PtbxlConfig(RecordConfig):
    """Which of the two sampling rates, and what to do about files that are not there."""

    source: str = Field(description="the folder with ptbxl_database.csv")
    fs_hz: Literal[100, 500] = Field(100, description="sampling rate", json_schema_extra={"unit": "Hz"})
    skip_missing: bool = Field(False, description="leave out records whose files are not on disk")


def build_reader(config: PtbxlConfig) -> RecordReader:
    """Read both tables, and look for every record's files.

    Raises:
        ValueError: a table is missing or malformed, or records are not on disk.
    """
    folder = Path(config.source).absolute()  # workers run in other folders
    file_column = "filename_lr" if config.fs_hz == 100 else "filename_hr"
    database = _read_csv(Path(config.source) / "ptbxl_database.csv", (*_COLUMNS, file_column))
    statements = _read_csv(Path(config.source) / "scp_statements.csv", _STATEMENT_COLUMNS, index_col=0)
    database, n_skipped = _present(database, config, file_column)
    codes = [_parse_codes(text, ecg_id) for text, ecg_id in zip(database.scp_codes, database.ecg_id, strict=True)]
    _check_known(codes, database.ecg_id.tolist(), statements)
    labels = {name: _binarise(name, codes, mapping) for name, mapping in statement_mappings(statements).items()}
    labels["superclass"] = _only_one("superclass", *labels["diag_superclass"])
    notes = ["ages over 89, which the source masks as 300, are stored as 90"]
    if n_skipped:
        notes.append(f"{n_skipped} records of the database are left out, as their files were not on disk")
    notes += [
        f"label set {name} is left out, as none of its statements occurs"
        for name, (label_set, _) in sorted(labels.items())
        if not label_set.names
    ]
    age_N = _known_ages(database)
    sex_N = database.sex.to_numpy(np.float32)
    labels |= {
        "sex": (LabelSet("sex", "binary", ("female",)), sex_N[:, None]),
        "age": (LabelSet("age", "regression", ("age",), ("years",)), age_N[:, None]),
    }
    labels = {name: pair for name, pair in labels.items() if pair[0].names}
    header = Header(
        kind="ptbxl",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=float(config.fs_hz),
        n_timesteps=config.n_timesteps,
        label_sets={name: label_set for name, (label_set, _) in labels.items()},
        folds=ROLES,
        patients_known=True,
        notes=tuple(notes),
    )
    index = Index(
        places=[str(folder / name) for name in database[file_column]],
        record_ids=database.ecg_id.to_numpy(np.int64).astype(np.str_),
        patient_ids=database.patient_id.to_numpy(np.int64).astype(np.str_),
        folds=database.strat_fold.to_numpy(np.int16),
        labels={name: labels_NK for name, (_, labels_NK) in labels.items()},
        meta={"age": age_N, "sex": sex_N},
    )
    return RecordReader(header, index, read_wfdb, config.nan)


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


def _present(database: pd.DataFrame, config: PtbxlConfig, file_column: str) -> tuple[pd.DataFrame, int]:
    """Return the records that are on disk, and how many are not."""
    names, folder = database[file_column], Path(config.source)
    present_N = np.array([_is_on_disk(folder / name) for name in names], dtype=bool)
    n_missing = int((~present_N).sum())
    if n_missing == len(names):
        raise ValueError(
            f"{config.source}: none of its {len(names)} records is on disk at {config.fs_hz} Hz; "
            "download them, or choose the other rate"
        )
    if n_missing and not config.skip_missing:
        raise ValueError(
            f"{config.source}: {n_missing} of {len(names)} records are not on disk, the first is "
            f"{names[~present_N].iloc[0]}.hea/.dat; "
            "download them, or leave them out with skip_missing (--skip-missing)"
        )
    return database[present_N].reset_index(drop=True), n_missing


def _binarise(
    name: str, codes: Sequence[Mapping[str, float]], mapping: Mapping[str, str]
) -> tuple[LabelSet, NDArray[np.float32]]:
    labels = [{mapping[code] for code in record if code in mapping} for record in codes]
    names = tuple(sorted(set().union(*labels)))
    labels_NK = np.array([[label in record for label in names] for record in labels], dtype=np.float32)
    return LabelSet(name, "multilabel", names), labels_NK.reshape(len(codes), len(names))


def _only_one(name: str, label_set: LabelSet, labels_NK: NDArray[np.float32]) -> tuple[LabelSet, NDArray[np.float32]]:
    """Return the label of the records that have exactly one, as a class; NaN for the others."""
    class_N = labels_NK.argmax(axis=1) if label_set.names else np.zeros(len(labels_NK))
    class_N1 = np.where(labels_NK.sum(axis=1) == 1, class_N, np.nan)[:, None]
    return LabelSet(name, "multiclass", label_set.names), class_N1.astype(np.float32)


def _known_ages(database: pd.DataFrame) -> NDArray[np.float32]:
    age_N = database.age.to_numpy(np.float32)
    return np.where(age_N == _MASKED_AGE, np.float32(90), age_N)


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
