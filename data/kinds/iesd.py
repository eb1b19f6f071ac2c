"""The layout of the IESD-2024 contest: text files `S<subject>-<rhythm>-<index>.txt`, 5 s of one lead at 250 Hz each.

A file has one number a line, 1,250 of them, taken as mV. Label sets: `af` (AFIB against the rest, as in the contest)
and `rhythm` (every rhythm that occurs). Subjects are patients. With a test part of its own, that is fold 10 and the
training part makes folds 1-9; otherwise all ten are stratified by rhythm.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import LabelSet
from data.folds import N_FOLDS, ROLES, stratified_folds
from data.reader import Header, Quarantined
from data.record_reader import Index, RawRecord, RecordConfig, RecordReader

FS_HZ, N_VALUES = 250.0, 1250
LEAD_NAMES = ("ECG",)
AF = LabelSet("af", "binary", ("AFIB",))

_NAME = re.compile(r"S(?P<subject>\w+)-(?P<rhythm>\w*)-(?P<index>\w+)")


class IesdConfig(RecordConfig):
    """Where the two parts are."""

    source: str = Field(description="folder or .zip with the training part's text files")
    fs_hz: float = Field(
        FS_HZ, gt=0, le=10_000, description="sampling rate of the store; the files have 250 Hz",
        json_schema_extra={"unit": "Hz"},
    )  # fmt: skip
    duration_s: float = Field(
        N_VALUES / FS_HZ, gt=0, description="length of the store's records", json_schema_extra={"unit": "s"}
    )
    test: str | None = Field(None, description="folder or .zip with the test part, of other subjects: becomes fold 10")
    seed: int = Field(18, ge=0, description="seed of the folds")


@dataclass(frozen=True)
class Place:
    """A text file: a path, or a member of an archive."""

    path: str
    member: str = ""


@dataclass(frozen=True)
class Segment:
    """What a file's name says."""

    place: Place
    record_id: str
    subject: str
    rhythm: str
    is_test: bool


def build_reader(config: IesdConfig) -> RecordReader:
    """Read the names of all files; their signal comes later.

    Raises:
        ValueError: a part can't be read or has no such file, or a subject is in both parts.
    """
    parts = [(config.source, False)] + ([(config.test, True)] if config.test is not None else [])
    segments: list[Segment] = []
    quarantined: list[Quarantined] = []
    for source, is_test in parts:
        found, refused = _read_names(source, is_test)
        segments += found
        quarantined += refused
    _check_disjoint(segments, config)
    index, rhythms = _index(segments, config.seed)
    header = Header(
        kind="iesd",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEAD_NAMES,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={AF.name: AF, rhythms.name: rhythms},
        folds=ROLES,
        patients_known=True,
        notes=_notes(quarantined, config),
    )
    return RecordReader(header, index, read_text, config.nan, quarantined)


def read_text(place: Place) -> RawRecord:
    """Read the numbers of one file.

    Raises:
        ValueError: it has another number of values than 1,250, or one is no number.
    """
    values = _read_bytes(place).split()
    if len(values) != N_VALUES:
        raise ValueError(f"it has {len(values):,} values; exactly {N_VALUES:,} are needed, 5 s at 250 Hz")
    return RawRecord(np.array(values, np.float64)[np.newaxis], FS_HZ, LEAD_NAMES)


def _read_bytes(place: Place) -> bytes:
    if not place.member:
        return Path(place.path).read_bytes()
    try:
        return _archive(place.path).read(place.member)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"it is damaged in the archive ({error}); fetch that anew") from None


def _read_names(source: str, is_test: bool) -> tuple[list[Segment], list[Quarantined]]:
    segments, quarantined = [], []
    for place in _places(Path(source).absolute(), source):
        record_id = Path(place.member or place.path).stem
        match = _NAME.fullmatch(record_id)
        if match is None:
            quarantined.append(Quarantined(record_id, "its name is not S<subject>-<rhythm>-<index>.txt"))
        elif not match["rhythm"]:
            quarantined.append(Quarantined(record_id, "its name has an empty rhythm"))
        else:
            segments.append(Segment(place, record_id, f"S{match['subject']}", match["rhythm"], is_test))
    if not segments:
        raise ValueError(f"{source} has no file with a name such as S0-AFIB-0.txt; the contest's layout is needed")
    return segments, quarantined


def _places(path: Path, source: str) -> Iterator[Place]:
    """Yield the text files of a folder or an archive, in the order of their names."""
    if path.is_dir():
        yield from (Place(str(file)) for file in sorted(path.rglob("*.txt")))
    elif path.suffix == ".zip":
        try:
            names = _archive(str(path)).namelist()
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{source} can't be read as a zip archive ({error}); fetch it anew") from None
        yield from (Place(str(path), name) for name in sorted(names) if _is_text(name))
    else:
        raise ValueError(f"{source}: a folder or a .zip of text files is needed")


def _is_text(name: str) -> bool:
    return name.endswith(".txt") and not name.startswith("__MACOSX/")


@lru_cache(maxsize=2)  # a process opens an archive once: reading the names of 50,000 members takes half a second
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _check_disjoint(segments: Sequence[Segment], config: IesdConfig) -> None:
    train = {segment.subject for segment in segments if not segment.is_test}
    both = sorted({segment.subject for segment in segments if segment.is_test} & train)
    if both:
        raise ValueError(
            f"{config.source} and {config.test} share {len(both)} subjects, the first is {both[0]}; "
            "a subject must be in one part only: take it out of one, or give all files as one part"
        )


def _index(segments: Sequence[Segment], seed: int) -> tuple[Index, LabelSet]:
    rhythms = LabelSet("rhythm", "multiclass", tuple(sorted({segment.rhythm for segment in segments})))
    code_N = np.array([rhythms.names.index(segment.rhythm) for segment in segments])
    subjects = np.array([segment.subject for segment in segments], np.str_)
    is_af_N = np.array([segment.rhythm in AF.names for segment in segments])
    index = Index(
        places=[segment.place for segment in segments],
        record_ids=np.array([segment.record_id for segment in segments], np.str_),
        patient_ids=subjects,
        folds=_folds(np.array([segment.is_test for segment in segments]), code_N, subjects, seed),
        labels={
            AF.name: is_af_N[:, np.newaxis].astype(np.float32),
            rhythms.name: code_N[:, np.newaxis].astype(np.float32),
        },
    )
    return index, rhythms


def _folds(
    is_test_N: NDArray[np.bool_], code_N: NDArray[np.intp], subjects: NDArray[np.str_], seed: int
) -> NDArray[np.int16]:
    one_hot_NK = np.eye(code_N.max() + 1)[code_N]
    if not is_test_N.any():
        return stratified_folds(one_hot_NK, subjects, seed)
    folds_N = np.full(len(code_N), N_FOLDS, np.int16)
    train_N = ~is_test_N
    folds_N[train_N] = stratified_folds(one_hot_NK[train_N], subjects[train_N], seed, N_FOLDS - 1)
    return folds_N


def _notes(quarantined: Sequence[Quarantined], config: IesdConfig) -> tuple[str, ...]:
    split = "fold 10 is the test part as given" if config.test else "folds are stratified by rhythm, by subject"
    n_empty = sum("empty rhythm" in each.reason for each in quarantined)
    dropped = f"{n_empty} files are left out, as their names have an empty rhythm"
    return (split, dropped) if n_empty else (split,)
