"""The ECGs of the Hefei hi-tech cup (Tianchi, 2019), as published: text files of 8 leads, and tab-separated labels.

A record has the line `I II V1 V2 V3 V4 V5 V6` and 5,000 rows of whole numbers, in steps of 4.88 uV at 500 Hz; III,
aVR, aVL and aVF are derived. A row of the labels is `file.txt`, age, sex (MALE, FEMALE; both may be empty) and the
record's arrhythmias, of those that the arrhythmia list names. Both rounds have the same layout: `hf_round1_label.txt`
with `hf_round1_arrythmia.txt` (55 names), `hf_round2_train.txt` with `hf_round2_arrythmia.txt` (34 names). Patients
are unknown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import LabelSet
from data.folds import ROLES, stratified_folds
from data.leads import LEADS_12, derive_limb_leads
from data.metadata import parse_ages, parse_sexes
from data.reader import Header, Quarantined
from data.record_reader import UNREADABLE, Index, RawRecord, RecordConfig, RecordReader

FS_HZ, N_ROWS = 500.0, 5000
LEADS_8 = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
LABEL_SET = "arrhythmia"

_ROUNDS = {"hf_round1_label.txt": "hf_round1_arrythmia.txt", "hf_round2_train.txt": "hf_round2_arrythmia.txt"}


class HefeiConfig(RecordConfig):
    """Which labels, and what a step of the converter is worth."""

    source: str = Field(description="folder with the label files and, at any depth, the records' text files")
    labels: str | None = Field(
        None, description="label file; found where SOURCE has that of one round only: hf_round1_label.txt or "
        "hf_round2_train.txt",
    )  # fmt: skip
    arrhythmias: str | None = Field(
        None, description="file with one arrhythmia a line; found where the label file is that of a round"
    )
    gain_uv: float = Field(
        4.88, gt=0, description="what a step of the converter is worth", json_schema_extra={"unit": "uV"}
    )
    seed: int = Field(18, ge=0, description="seed of the folds")


class Row(NamedTuple):
    """A row of the label file."""

    file: str
    age: str
    sex: str
    arrhythmias: tuple[str, ...]


def build_reader(config: HefeiConfig) -> RecordReader:
    """Read both tables and find the records' files.

    Raises:
        ValueError: a table is missing or malformed, a label is not in the list, or a file's name occurs twice.
    """
    labels_path, names_path = _find_tables(config)
    rows = read_labels(labels_path)
    names = tuple(dict.fromkeys(line.split()[0] for line in _read_lines(names_path)))
    _check_known(rows, names, labels_path, names_path)
    files = _find_files(Path(config.source).absolute(), {row.file for row in rows}, config.source)
    missing = [Quarantined(_record_id(row), f"{row.file} is not on disk") for row in rows if row.file not in files]
    rows = [row for row in rows if row.file in files]
    if not rows:
        raise ValueError(f"{config.source} has none of the {len(missing)} records of {labels_path}; download them")
    label_set, labels_NK = _binarise(rows, names)
    header = Header(
        kind="hefei",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={LABEL_SET: label_set},
        folds=ROLES,
        patients_known=False,
        notes=_notes(names, label_set),
    )
    index = _index(rows, files, labels_NK, config, labels_path)
    return RecordReader(header, index, partial(read_text, gain_uv=config.gain_uv), config.nan, missing)


def read_text(path: str, gain_uv: float) -> RawRecord:
    """Read one record's text file, and derive the four leads that it lacks.

    Raises:
        ValueError: its first line does not name the 8 leads, or it has other than 5,000 rows of 8 numbers.
    """
    with Path(path).open(encoding="ascii") as file:
        lead_names = tuple(file.readline().split())
        if sorted(lead_names) != sorted(LEADS_8):
            raise ValueError(f"its first line must name the leads {' '.join(LEADS_8)}, got {' '.join(lead_names)!r}")
        try:
            steps_TL = np.loadtxt(file, ndmin=2)
        except UNREADABLE as error:
            raise ValueError(f"it is no table of numbers ({error}); download it anew") from None
    if steps_TL.shape != (N_ROWS, len(LEADS_8)):
        raise ValueError(
            f"it has {steps_TL.shape[0]:,} rows of {steps_TL.shape[1]} numbers; {N_ROWS:,} rows of {len(LEADS_8)} are "
            "needed: download it anew"
        )
    ecg_LT, lead_names = derive_limb_leads(steps_TL.T * (gain_uv / 1000), lead_names)
    return RawRecord(ecg_LT, FS_HZ, lead_names)


def read_labels(path: Path) -> list[Row]:
    """Read the label file.

    Raises:
        ValueError: it can't be read, a row lacks its three first columns, or a file is named twice.
    """
    rows, seen = [], set()
    for number, line in enumerate(_read_lines(path), start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 3 or not cells[0].endswith(".txt"):
            raise ValueError(f"{path}: row {number} must be file.txt, age, sex and labels between tabs, got {line!r}")
        if cells[0] in seen:
            raise ValueError(f"{path}: row {number}: {cells[0]} is named twice; take one row out")
        seen.add(cells[0])
        rows.append(Row(cells[0], cells[1], cells[2], tuple(filter(None, cells[3:]))))
    return rows


def _find_tables(config: HefeiConfig) -> tuple[Path, Path]:
    folder = Path(config.source)
    found = [name for name in _ROUNDS if (folder / name).is_file()]
    if config.labels is None and len(found) != 1:
        what = "has the label files of both rounds" if found else f"has neither {' nor '.join(_ROUNDS)}"
        raise ValueError(f"{config.source} {what}; name the label file with --labels")
    labels = folder / found[0] if config.labels is None else Path(config.labels)
    if config.arrhythmias is None and labels.name not in _ROUNDS:
        raise ValueError(f"{labels} is not the label file of a round; name its list of arrhythmias with --arrhythmias")
    names = labels.with_name(_ROUNDS[labels.name]) if config.arrhythmias is None else Path(config.arrhythmias)
    return labels, names


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror}); the files as published are needed") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason}); the file as published is needed") from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{path} is empty; the file as published is needed")
    return lines


def _check_known(rows: Sequence[Row], names: Sequence[str], labels_path: Path, names_path: Path) -> None:
    for row in rows:
        unknown = sorted(set(row.arrhythmias) - set(names))
        if unknown:
            raise ValueError(f"{labels_path}: {row.file}: {unknown[0]!r} is not in {names_path}; take the round's own")


def _find_files(folder: Path, wanted: set[str], source: str) -> dict[str, str]:
    """Return the path of every file that is named in the labels and on disk."""
    found: dict[str, str] = {}
    for parent, _, files in os.walk(folder):
        for name in wanted.intersection(files):
            path = os.path.join(parent, name)
            if name in found:
                raise ValueError(f"{source} has two files {name}: {found[name]} and {path}; take one out")
            found[name] = path
    return found


def _binarise(rows: Sequence[Row], names: Sequence[str]) -> tuple[LabelSet, NDArray[np.float32]]:
    """Return the labels that occur, in the order of the list."""
    labels_NK = np.array([[name in row.arrhythmias for name in names] for row in rows], np.float32)
    occurs_K = (labels_NK > 0).any(axis=0)
    if not occurs_K.any():
        raise ValueError("no record on disk has an arrhythmia; the labels of the training part are needed")
    kept = tuple(names[int(label)] for label in np.flatnonzero(occurs_K))
    return LabelSet(LABEL_SET, "multilabel", kept), labels_NK[:, occurs_K]


def _index(
    rows: Sequence[Row], files: Mapping[str, str], labels_NK: NDArray[np.float32], config: HefeiConfig, path: Path
) -> Index:
    ids = [_record_id(row) for row in rows]
    record_ids = np.array(ids, np.str_)
    return Index(
        places=[files[row.file] for row in rows],
        record_ids=record_ids,
        patient_ids=record_ids,
        folds=stratified_folds(labels_NK, record_ids, config.seed),
        labels={LABEL_SET: labels_NK},
        meta={
            "age": parse_ages([row.age for row in rows], ids, str(path)),
            "sex": parse_sexes([row.sex for row in rows], ids, str(path)),
        },
    )


def _record_id(row: Row) -> str:
    return row.file.removesuffix(".txt")


def _notes(names: Sequence[str], label_set: LabelSet) -> tuple[str, ...]:
    notes = ["patients are unknown: a patient's records may be in several folds"]
    unseen = len(names) - label_set.n_outputs
    if unseen:
        notes.append(f"{unseen} of {len(names)} arrhythmias of the list are left out, as none of them occurs")
    return tuple(notes)
