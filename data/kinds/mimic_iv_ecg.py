"""MIMIC-IV-ECG by way of EnECG's JSONL: one object a line, which names a WFDB record and has its labels.

A line has `subject_id`, `ecg_path` (relative to `root`, without a suffix), perhaps `study_id`, and of `rr_interval`
(ms; 29999 is missing), `age` (years), `gender` (0 male, 1 female), `flag` (blood potassium: 0 normal, 1 abnormal) and
`report_label` (0-14) what is known. The recordings need a credentialed account at PhysioNet (mimic-iv-ecg 1.0).

Targets of regression are stored in their own units; training standardises them by the training folds
(`trainables.standardise.fit_output_units`), and predictions come back in units.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from data.dataset import LabelSet
from data.folds import ROLES, stratified_folds
from data.leads import LEADS_12
from data.reader import Header
from data.record_reader import Index, NanPolicy, RawRecord, RecordConfig, RecordReader
from data.wfdb_record import read_wfdb

MISSING_MS = 29999
REPORTS = (
    "sinus rhythm",
    "sinus bradycardia",
    "sinus tachycardia",
    "atrial fibrillation",
    "sinus rhythm with borderline 1st-degree AV block",
    "sinus rhythm with 1st-degree AV block",
    "atrial fibrillation with rapid ventricular response",
    "sinus arrhythmia",
    "sinus rhythm with PAC",
    "ventricular pacing",
    "consider acute ST-elevation MI",
    "data quality may affect interpretation",
    "sinus rhythm with PVC",
    "possible ectopic atrial rhythm",
    "other",
)
LABEL_SETS = (
    LabelSet("rr_interval", "regression", ("rr_interval",), ("ms",)),
    LabelSet("age", "regression", ("age",), ("years",)),
    LabelSet("gender", "binary", ("female",)),
    LabelSet("flag", "binary", ("abnormal_potassium",)),
    LabelSet("report_label", "multiclass", REPORTS),
)


class MimicIvEcgConfig(RecordConfig):
    """Where the recordings lie, and how many of them are taken."""

    source: str = Field(description="the .jsonl file: one object a line, with subject_id, ecg_path and labels")
    root: str = Field(description="the folder that ecg_path is relative to")
    nan: NanPolicy = Field(
        "interpolate",
        description="what becomes of values that are not finite, of which the recordings have some; a lead of nothing "
        "else becomes zero",
    )
    max_patients: int | None = Field(None, gt=0, description="take the first so many patients of the file, at most")
    first_record_per_patient: bool = Field(False, description="take the first record of each patient only")
    seed: int = Field(18, ge=0, description="seed of the folds")


def _code(**codes: float) -> BeforeValidator:
    """Turn 0 and 1, however they are written, into numbers; words by `codes`."""
    known = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, **codes}

    def parse(value: Any) -> Any:
        if value is None or value == "":
            return None
        try:
            return known[str(value).lower()]
        except KeyError:
            raise ValueError(f"must be one of {', '.join(known)} or null") from None

    return BeforeValidator(parse)


class Line(BaseModel):
    """One line of the file; other keys are of no use here."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    subject_id: Annotated[str, Field(min_length=1)]
    ecg_path: Annotated[str, Field(min_length=1)]
    study_id: str | None = None
    rr_interval: float | None = None
    age: float | None = None
    gender: Annotated[float | None, _code(m=0, f=1, male=0, female=1)] = None
    flag: Annotated[float | None, _code(false=0, true=1, normal=0, abnormal=1)] = None
    report_label: Annotated[int | None, Field(ge=0, lt=len(REPORTS))] = None

    @property
    def record_id(self) -> str:
        return self.study_id or PurePosixPath(self.ecg_path).name

    @property
    def labels(self) -> tuple[float, ...]:
        """The values of all label sets, in their order, NaN where missing."""
        rr_interval = None if self.rr_interval == MISSING_MS else self.rr_interval
        values = (rr_interval, self.age, self.gender, self.flag, self.report_label)
        return tuple(math.nan if value is None or not math.isfinite(value) else float(value) for value in values)


@dataclass
class Columns:
    """The lines that are taken, column by column: 800,000 objects would take some 1 GB."""

    paths: list[str] = field(default_factory=list)
    record_ids: list[str] = field(default_factory=list)
    patient_ids: list[str] = field(default_factory=list)
    lines: array[int] = field(default_factory=lambda: array("q"))  # their numbers in the file
    values: array[float] = field(default_factory=lambda: array("f"))

    @property
    def labels_NK(self) -> NDArray[np.float32]:
        return np.frombuffer(self.values, np.float32).reshape(len(self.paths), len(LABEL_SETS))

    def add(self, number: int, line: Line, patient: str) -> None:
        self.lines.append(number)
        self.paths.append(line.ecg_path)
        self.record_ids.append(line.record_id)
        self.patient_ids.append(patient)
        self.values.extend(line.labels)


def build_reader(config: MimicIvEcgConfig) -> RecordReader:
    """Read the lines, and look for the first record.

    Raises:
        ValueError: a line is malformed, with its number; a record occurs twice; there are no labels at all, fewer
            than ten patients, or no recordings in `root`.
    """
    columns = read_columns(config)
    root = Path(config.root).absolute()  # workers run in other folders
    _check_on_disk(root, columns.paths[0], config.root)
    labels_NK = columns.labels_NK
    known_K = np.asarray(np.isfinite(labels_NK).any(axis=0)).tolist()
    label_sets = [each for each, known in zip(LABEL_SETS, known_K, strict=True) if known]
    if not label_sets:
        raise ValueError(f"{config.source} has none of {', '.join(each.name for each in LABEL_SETS)} in any line")
    column = {each.name: labels_NK[:, [number]] for number, each in enumerate(LABEL_SETS)}
    patient_ids = np.array(columns.patient_ids, np.str_)
    header = Header(
        kind="mimic_iv_ecg",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS_12,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={each.name: each for each in label_sets},
        folds=ROLES,
        patients_known=True,
        notes=tuple(
            f"label set {each.name} is left out, as no line has a value"
            for each in LABEL_SETS
            if each not in label_sets
        ),
    )
    index = Index(
        places=columns.paths,
        record_ids=np.array(columns.record_ids, np.str_),
        patient_ids=patient_ids,
        folds=stratified_folds(_strata(column), patient_ids, config.seed),
        labels={each.name: column[each.name] for each in label_sets},
        meta={"age": column["age"][:, 0], "sex": column["gender"][:, 0]},
    )
    return RecordReader(header, index, partial(read_under, root=str(root)), config.nan)


def read_under(path: str, root: str) -> RawRecord:
    """Read the record at `path`, relative to `root`."""
    return read_wfdb(str(Path(root) / path))


def read_columns(config: MimicIvEcgConfig) -> Columns:
    """Read the file line by line, and keep what the configuration takes.

    Raises:
        ValueError: as `build_reader`.
    """
    columns, patients = Columns(), dict[str, str]()  # one text a patient, not one a record
    for number, line in _parse_lines(config.source):
        known = line.subject_id in patients
        if known and config.first_record_per_patient:
            continue
        if not known and len(patients) == config.max_patients:
            continue
        columns.add(number, line, patients.setdefault(line.subject_id, line.subject_id))
    if not columns.paths:
        raise ValueError(f"{config.source} has no lines; one object a line is needed")
    _check_unique(columns, config.source)
    return columns


def _parse_lines(source: str) -> Iterator[tuple[int, Line]]:
    """Yield each line that is not blank, and its number from 1."""
    try:
        with Path(source).open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield number, _parse_line(text, f"{source}: line {number}")
    except OSError as error:
        raise ValueError(f"{source} can't be read ({error.strerror or error}); check the path") from None


def _parse_line(text: bytes, where: str) -> Line:
    try:
        line = Line.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"{part}: " for part in first["loc"])
        got = f", got {first['input']!r}" if first["loc"] and first["type"] != "missing" else ""
        raise ValueError(f"{where}: {key}{first['msg'].removeprefix('Value error, ')}{got}; correct it") from None
    path = PurePosixPath(line.ecg_path)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{where}: ecg_path must be relative to --root and inside it, got {line.ecg_path!r}")
    return line


def _check_unique(columns: Columns, source: str) -> None:
    ids, counts_N = np.unique(columns.record_ids, return_counts=True)
    if (counts_N > 1).any():
        twice = int(np.argmax(counts_N > 1))
        first, second = np.flatnonzero(np.array(columns.record_ids) == ids[twice])[:2].tolist()
        raise ValueError(
            f"{source}: line {columns.lines[second]}: record {ids[twice]} is in line {columns.lines[first]} already; "
            "remove one"
        )


def _check_on_disk(root: Path, first: str, named: str) -> None:
    """Look for one record: a wrong root would otherwise quarantine 800,000, one by one."""
    if not root.is_dir():
        raise ValueError(f"--root must be a folder, but {named} is none; check the path")
    if not (root / f"{first}.hea").is_file():
        raise ValueError(
            f"the first record, {first}.hea, is not in {named}; --root must be the folder that ecg_path is relative to"
        )


def _strata(column: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return what folds are balanced by: sex, potassium, and the class of the report. Missing counts as none."""
    reports_NK = column["report_label"] == np.arange(len(REPORTS))
    return np.hstack([np.nan_to_num(column["gender"]), np.nan_to_num(column["flag"]), reports_NK]).astype(np.float32)
