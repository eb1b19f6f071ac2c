"""The MIT-BIH Arrhythmia Database as PhysioNet publishes it: one record of the store a beat, labelled by AAMI class.

Classes and the split between patients follow de Chazal et al. 2004 (doi:10.1109/TBME.2004.827359): training in DS1,
test in DS2, 22 recordings each; the four with paced beats are left out. Recordings 201 (DS1) and 202 (DS2) are of one
person, which that split overlooks: by default 201 is left out, so that the test set stays the published one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import wfdb
from numpy.typing import NDArray
from pydantic import Field, model_validator

from data.dataset import LabelSet
from data.folds import N_FOLDS, ROLES, stratified_folds
from data.reader import Header, Quarantined
from data.record_reader import UNREADABLE, Index, RawRecord, RecordConfig, RecordReader, reason
from data.wfdb_record import read_wfdb

_DS1 = 101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230
_DS2 = 100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234
DS1, DS2 = frozenset(map(str, _DS1)), frozenset(map(str, _DS2))
PACED = frozenset({"102", "104", "107", "217"})
SAME_PERSON = MappingProxyType({"202": "201"})

BEATS = MappingProxyType({"N": "NLRej", "S": "AaJS", "V": "VE", "F": "F", "Q": "/fQ"})  # class -> annotations
CLASSES = tuple(BEATS)
SYMBOLS = MappingProxyType({symbol: index for index, symbols in enumerate(BEATS.values()) for symbol in symbols})
LABEL_SETS = {
    each.name: each
    for each in (
        LabelSet("aami", "multiclass", CLASSES),
        LabelSet("aami4", "multiclass", CLASSES[:4]),  # of the 100,000 beats 15 are Q: they have no label here
        LabelSet("abnormal", "binary", ("abnormal",)),
    )
}
_MLII, _OTHER = "MLII", "other"
_TEST_FOLD = N_FOLDS
_TRAINING_FOLDS = N_FOLDS - 1


class MitdbConfig(RecordConfig):
    """What is cut out around each beat, and which recordings are used."""

    source: str = Field(description="the folder with the recordings' .hea, .dat and .atr files")
    fs_hz: float = Field(
        360, gt=0, le=10_000, description="sampling rate of the store; recordings have 360 Hz",
        json_schema_extra={"unit": "Hz"},
    )  # fmt: skip
    duration_s: float = Field(
        1.0, gt=0, description="length of the window around each beat", json_schema_extra={"unit": "s"}
    )
    before_s: float | None = Field(
        None, ge=0, description="how much of the window lies before the beat's annotation, at its R peak; without it, "
        "half", json_schema_extra={"unit": "s"},
    )  # fmt: skip
    leads: Literal["MLII", "both"] = Field(
        "MLII", description="MLII, or both: the other one (V1, V2, V4 or V5) as the lead `other`"
    )
    same_person: Literal["leave_out_201", "train", "test"] = Field(
        "leave_out_201", description="what becomes of 201 (DS1) and 202 (DS2), who are one person: leave_out_201, or "
        "both to train or to test",
    )  # fmt: skip
    keep_paced: bool = Field(False, description="train on the recordings with paced beats (102, 104, 107, 217) too")
    seed: int = Field(18, ge=0, description="seed of the folds within DS1")

    @model_validator(mode="after")
    def _check_window(self) -> MitdbConfig:
        if self.before_s is not None and self.before_s >= self.duration_s:
            raise ValueError(
                f"`before_s < duration_s` must hold, but got {self.before_s:g} and {self.duration_s:g}: "
                "the beat must be inside its window"
            )
        return self

    @property
    def seconds_before(self) -> float:
        return self.duration_s / 2 if self.before_s is None else self.before_s


class BeatPlace(NamedTuple):
    """A window of a recording, in timesteps; it may reach beyond it."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Recording:
    """What is known of a recording before its signal is read. Of B beats."""

    name: str
    path: str
    fs_hz: float
    age: float  # years, NaN where unknown
    sex: float  # 0 male, 1 female, NaN where unknown
    time_B: NDArray[np.int64]  # timestep of the R peak
    class_B: NDArray[np.int64]  # index in CLASSES

    @property
    def patient(self) -> str:
        return SAME_PERSON.get(self.name, self.name)


def build_reader(config: MitdbConfig) -> RecordReader:
    """Read the headers and annotations of all recordings.

    Raises:
        ValueError: there are none, or one is not of this data set.
    """
    folder = Path(config.source).absolute()  # workers run in other folders
    present = sorted(path.stem for path in folder.glob("*.hea"))
    _check_names(present, config.source)
    names = [name for name in present if config.keep_paced or name not in PACED]
    if config.same_person == "leave_out_201":
        names = [name for name in names if name != "201"]
    recordings, quarantined = _read_recordings(folder, names)
    if not recordings:
        why = f": {quarantined[0].record_id}, {quarantined[0].reason}" if quarantined else ""
        raise ValueError(f"{config.source}: no recording can be used{why}; name the folder of the whole data set")
    index = _index(recordings, config)
    lead_names = (_MLII,) if config.leads == "MLII" else (_MLII, _OTHER)
    header = Header(
        kind="mitdb",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=lead_names,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets=LABEL_SETS,
        folds=ROLES,
        patients_known=True,
        notes=tuple(_notes(present, recordings, config)),
    )
    return RecordReader(header, index, BeatReader(), config.nan, quarantined)


class BeatReader:
    """Cuts windows out of recordings, and keeps the last one: 1,800 to 3,400 beats in a row are of the same."""

    def __init__(self) -> None:
        self._last: tuple[str, RawRecord] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None}

    def __call__(self, place: BeatPlace) -> RawRecord:
        if self._last is None or self._last[0] != place.path:
            self._last = place.path, name_leads(read_wfdb(place.path))
        recording = self._last[1]
        n_timesteps = recording.ecg_LT.shape[1]
        if place.start < 0 or place.stop > n_timesteps:
            raise ValueError(
                f"its window is of timesteps {place.start} to {place.stop}, but the recording has 0 to {n_timesteps}"
            )
        return RawRecord(recording.ecg_LT[:, place.start : place.stop], recording.fs_hz, recording.lead_names)


def name_leads(recording: RawRecord) -> RawRecord:
    """Call the lead that is not MLII `other`."""
    names = tuple(name if name == _MLII else _OTHER for name in recording.lead_names)
    return RawRecord(recording.ecg_LT, recording.fs_hz, names)


def _check_names(names: Sequence[str], source: str) -> None:
    if not names:
        raise ValueError(f"{source} has no recordings (*.hea); name the folder of the MIT-BIH Arrhythmia Database")
    unknown = [name for name in names if name not in DS1 | DS2 | PACED]
    if unknown:
        raise ValueError(
            f"{source}: {unknown[0]} is no recording of the MIT-BIH Arrhythmia Database, which has 48 from 100 to 234; "
            "take it out of the folder"
        )


def _read_recordings(folder: Path, names: Sequence[str]) -> tuple[list[Recording], list[Quarantined]]:
    recordings, quarantined = [], []
    for name in names:
        try:
            recordings.append(read_recording(folder / name))
        except UNREADABLE as error:
            quarantined.append(Quarantined(name, f"the whole recording: {reason(error)}"))
    return recordings, quarantined


def read_recording(path: Path) -> Recording:
    """Read a recording's header and its beats; `path` comes without a suffix.

    Raises:
        ValueError: it has no lead MLII, or no beats.
    """
    header, annotation = wfdb.rdheader(str(path)), wfdb.rdann(str(path), "atr")
    if _MLII not in header.sig_name:
        raise ValueError(f"lead {_MLII} is missing: it has {', '.join(header.sig_name)}")
    beat_A = np.array([symbol in SYMBOLS for symbol in annotation.symbol], bool)
    if not beat_A.any():
        raise ValueError("no beats: none of its annotations is of a beat")
    symbols = np.array(annotation.symbol)[beat_A].tolist()
    age, sex = _parse_person(header.comments)
    return Recording(
        name=path.name,
        path=str(path),
        fs_hz=float(header.fs),
        age=age,
        sex=sex,
        time_B=np.asarray(annotation.sample, np.int64)[beat_A],
        class_B=np.array([SYMBOLS[symbol] for symbol in symbols], np.int64),
    )


def _parse_person(comments: Sequence[str]) -> tuple[float, float]:
    """Return age and sex from a line like `69 M 1085 1629 x1`; an unknown age is -1."""
    found = re.match(r"(-?\d+) ([MF]) ", comments[0]) if comments else None
    if found is None:
        return np.nan, np.nan
    age = int(found[1])
    return (float(age) if age > 0 else np.nan), float(found[2] == "F")


def _index(recordings: Sequence[Recording], config: MitdbConfig) -> Index:
    n_beats = [len(each.time_B) for each in recordings]
    patient_ids = np.repeat(np.array([each.patient for each in recordings], np.str_), n_beats)
    class_N = np.concatenate([each.class_B for each in recordings])
    test_N = np.repeat([_is_test(each, config) for each in recordings], n_beats)
    folds_N = np.full(len(class_N), _TEST_FOLD, np.int16)
    folds_N[~test_N] = _training_folds(class_N[~test_N], patient_ids[~test_N], config.seed)
    return Index(
        places=[place for each in recordings for place in _places(each, config)],
        record_ids=np.array([f"{each.name}-{time:06d}" for each in recordings for time in each.time_B.tolist()]),
        patient_ids=patient_ids,
        folds=folds_N,
        labels={
            "aami": class_N[:, np.newaxis].astype(np.float32),
            "aami4": np.where(class_N < 4, class_N, np.nan)[:, np.newaxis].astype(np.float32),
            "abnormal": (class_N > 0)[:, np.newaxis].astype(np.float32),
        },
        meta=_meta(recordings, n_beats),
    )


def _is_test(recording: Recording, config: MitdbConfig) -> bool:
    if recording.patient == "201" and config.same_person != "leave_out_201":
        return config.same_person == "test"
    return recording.name in DS2


def _training_folds(class_N: NDArray[np.int64], patient_ids: NDArray[np.str_], seed: int) -> NDArray[np.int16]:
    """Deal DS1's patients to folds 1-8, for training, and 9, for validation.

    Of fewer than nine patients each gets a fold of its own, the last one 9, so that as few as two can be trained on.
    """
    patients, patient_N = np.unique(patient_ids, return_inverse=True)
    if len(patients) >= _TRAINING_FOLDS:
        return stratified_folds(np.eye(len(CLASSES))[class_N], patient_ids, seed, _TRAINING_FOLDS)
    folds_P = np.arange(1, len(patients) + 1, dtype=np.int16)
    if len(patients) > 1:
        folds_P[-1] = _TRAINING_FOLDS
    return folds_P[patient_N]


def _places(recording: Recording, config: MitdbConfig) -> list[BeatPlace]:
    n_before = round(config.seconds_before * recording.fs_hz)
    n_timesteps = max(1, round(config.duration_s * recording.fs_hz))
    starts = (recording.time_B - n_before).tolist()
    return [BeatPlace(recording.path, start, start + n_timesteps) for start in starts]


def _meta(recordings: Sequence[Recording], n_beats: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    """Return age and sex, and the seconds from the beat before and to the one after, NaN at a recording's ends."""
    gaps = [np.diff(each.time_B) / each.fs_hz for each in recordings]
    return {
        "age": np.repeat(np.array([each.age for each in recordings], np.float32), n_beats),
        "sex": np.repeat(np.array([each.sex for each in recordings], np.float32), n_beats),
        "rr_before_s": np.concatenate([np.r_[np.nan, gap] for gap in gaps]).astype(np.float32),
        "rr_after_s": np.concatenate([np.r_[gap, np.nan] for gap in gaps]).astype(np.float32),
    }


def _notes(present: Sequence[str], recordings: Sequence[Recording], config: MitdbConfig) -> list[str]:
    notes = []
    paced = sorted(PACED & set(present))
    if paced and not config.keep_paced:
        notes.append(f"recordings {', '.join(paced)} are left out, as they have paced beats (keep_paced)")
    if "201" in present:
        notes.append(
            {
                "leave_out_201": "recording 201 (DS1) is left out, as it is of the same person as 202 (DS2)",
                "train": "recording 202 is in the training folds, not in DS2's, as it is of the same person as 201",
                "test": "recording 201 is in the test fold, not in DS1's, as it is of the same person as 202",
            }[config.same_person]
        )
    absent = len(DS1 | DS2) - len({*present} & (DS1 | DS2))
    if absent:
        notes.append(f"{absent} of the 44 recordings of DS1 and DS2 are not on disk: results compare with no others")
    n_training = len({each.patient for each in recordings if not _is_test(each, config)})
    if n_training < _TRAINING_FOLDS:
        notes.append(f"patients for training and validation: {n_training}, so some of folds 1-9 are empty")
    return notes
