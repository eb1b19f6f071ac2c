"""The ECG database of Shandong Provincial Hospital (SPH): `metadata.csv` and HDF5 records of 12 leads at 500 Hz.

Liu et al. 2022 (doi:10.1038/s41597-022-01403-5): 25,770 records of 24,666 patients, 10 to 60 s long. `AHA_Code` holds
statements of the AHA/ACC/HRS recommendations, separated by semicolons, each a primary statement with its modifiers:
`22;147+367`. Label sets: `primary`, the statements without modifiers (44 labels); `all`, each statement as it is
written; `scored`, the classes of the PhysioNet/CinC Challenge 2021, as far as `data/tables/aha` knows them.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pandas as pd
from pydantic import Field

from data.folds import fold_roles, stratified_folds
from data.leads import LEADS_12
from data.reader import Header, Quarantined
from data.record_reader import UNREADABLE, Index, RawRecord, RecordConfig, RecordReader
from data.snomed import TABLES, LabelRule, scored_rule

FS_HZ = 500.0  # the same for all records; the files do not say it
_COLUMNS = ("ECG_ID", "AHA_Code", "Patient_ID", "Age", "Sex")
_SEXES: Mapping[str, float] = MappingProxyType({"M": 0.0, "F": 1.0})


class SphConfig(RecordConfig):
    """What to do about files that are not there."""

    source: str = Field(description="folder with metadata.csv, and the .h5 records in it at any depth")
    skip_missing: bool = Field(False, description="leave out records whose files are not on disk")
    n_folds: int = Field(10, ge=3, description="number of folds: the last is for test, the one before for validation")
    seed: int = Field(18, ge=0, description="seed of the folds")


def build_reader(config: SphConfig) -> RecordReader:
    """Read the table, and look for every record's file.

    Raises:
        ValueError: the table is missing or malformed, records are not on disk, or there are too few patients for folds.
    """
    folder = Path(config.source).absolute()  # workers run in other folders
    metadata = _read_metadata(Path(config.source) / "metadata.csv")
    paths = {path.stem: str(path) for path in sorted(folder.rglob("*.h5"))}
    unlisted = [
        Quarantined(name, "metadata.csv has no row for it, so its statements and its patient are unknown")
        for name in sorted(set(paths) - set(metadata.ECG_ID))
    ]
    metadata, n_missing = _present(metadata, paths, config)
    statements_N = [
        _parse_statements(text, name) for text, name in zip(metadata.AHA_Code, metadata.ECG_ID, strict=True)
    ]
    rules = statement_rules(set().union(*statements_N))
    labels = {rule.name: rule.binarise(statements_N) for rule in rules}
    notes = [f"label set {name} is left out, as none of its labels occurs" for name in labels if not labels[name].any()]
    if n_missing:
        notes.append(f"{n_missing} records of the table are left out, as their files were not on disk")
    header = Header(
        kind="sph",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={rule.name: rule.label_set for rule in rules if labels[rule.name].any()},
        folds=fold_roles(config.n_folds),
        patients_known=True,
        notes=tuple(notes),
    )
    patient_ids = metadata.Patient_ID.to_numpy(np.str_)
    index = Index(
        places=[paths[name] for name in metadata.ECG_ID],
        record_ids=metadata.ECG_ID.to_numpy(np.str_),
        patient_ids=patient_ids,
        folds=stratified_folds(labels["primary"], patient_ids, config.seed, config.n_folds),
        labels={name: labels[name] for name in header.label_sets},
        meta={
            "age": pd.to_numeric(metadata.Age, errors="coerce").to_numpy(np.float32),
            "sex": metadata.Sex.map(_SEXES).to_numpy(np.float32),
        },
    )
    return RecordReader(header, index, read_sph, config.nan, unlisted)


def statement_rules(statements: set[str]) -> list[LabelRule]:
    """Return the rules of the label sets for the statements that occur, by AHA number: `22`, `147+367`."""
    with (TABLES / "aha/statements.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["code"]: row for row in csv.DictReader(file)}
    ordered = sorted(statements, key=_numbers)
    primary = {code: code.partition("+")[0] for code in ordered}
    wording = {code: rows[code]["statement"] if code in rows else code for code in primary.values()}
    scored = scored_rule()
    snomed = {code: rows.get(code, rows.get(primary[code], {})).get("snomed") for code in ordered}
    return [
        LabelRule("primary", tuple(wording.values()), {code: wording[primary[code]] for code in ordered}),
        LabelRule("all", tuple(ordered), {code: code for code in ordered}),
        LabelRule("scored", scored.names, {code: scored.labels[known] for code, known in snomed.items() if known}),
    ]


def read_sph(path: str) -> RawRecord:
    """Read one record in mV.

    Raises:
        ValueError: it is no HDF5 file with a data set `ecg`.
    """
    try:
        with h5py.File(path) as file:
            return RawRecord(file["ecg"][:], FS_HZ, LEADS_12)
    except UNREADABLE as error:
        raise ValueError(f"can't be read as HDF5 with a data set 'ecg' ({error}); download it anew") from error


def _read_metadata(path: Path) -> pd.DataFrame:
    """Read the table as text, with record ids that are the names of the files without `.h5`."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}); the folder of SPH as published is needed") from None
    except ValueError as error:  # pandas' parser errors
        raise ValueError(f"{path} is no CSV table ({error}); download it anew") from None
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}; the table as published is needed")
    table["ECG_ID"] = table.ECG_ID.str.removesuffix(".h5")
    twice = table.ECG_ID[table.ECG_ID.duplicated()]
    if len(twice):
        raise ValueError(f"{path}: ECG_ID {twice.iloc[0]} has several rows; one a record is needed")
    return table


def _present(metadata: pd.DataFrame, paths: Mapping[str, str], config: SphConfig) -> tuple[pd.DataFrame, int]:
    """Return the rows whose files are on disk, and how many are not."""
    present_N = metadata.ECG_ID.isin(list(paths)).to_numpy()
    n_missing = int((~present_N).sum())
    if n_missing == len(metadata):
        raise ValueError(f"{config.source}: none of the {n_missing} records of metadata.csv is on disk; download them")
    if n_missing and not config.skip_missing:
        raise ValueError(
            f"{config.source}: {n_missing} of {len(metadata)} records are not on disk, the first is "
            f"{metadata.ECG_ID[~present_N].iloc[0]}.h5; "
            "download them, or leave them out with skip_missing (--skip-missing)"
        )
    return metadata[present_N].reset_index(drop=True), n_missing


def _parse_statements(text: str, record_id: str) -> frozenset[str]:
    statements = frozenset(part.replace(" ", "") for part in text.split(";") if part.strip())
    bad = sorted(each for each in statements if not re.fullmatch(r"\d+(\+\d+)*", each))
    if bad:
        raise ValueError(f"metadata.csv: {record_id}: AHA_Code must be numbers as 22;147+367, got {bad[0]!r}")
    return statements


def _numbers(statement: str) -> tuple[int, ...]:
    return tuple(int(part) for part in statement.split("+"))
