"""The PhysioNet/CinC Challenge 2017: one lead of 9 to 61 s at 300 Hz, of one of four rhythms, in a folder or a zip.

The labels were revised more than once. `REFERENCE-v3.csv` is the last version and is taken where it is there, else
`REFERENCE.csv`; `--reference REFERENCE-original.csv` takes the first. Records of the store are 30 s long by default, as
70 % of the published ones are.
"""

from __future__ import annotations

import csv
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import LabelSet
from data.folds import fold_roles, stratified_folds
from data.reader import Header, Quarantined
from data.record_reader import Index, RecordConfig, RecordReader
from data.wfdb_record import ZippedRecord, read_wfdb, read_zipped_wfdb

CLASSES = ("N", "A", "O", "~")  # normal sinus rhythm, atrial fibrillation, another rhythm, noise
AF = LabelSet("af", "binary", ("AF",))  # against all others
REFERENCES = ("REFERENCE-v3.csv", "REFERENCE.csv")  # the newest first
LEADS = ("ECG",)  # as its headers call it: between the two hands

Place = str | ZippedRecord


class Challenge2017Config(RecordConfig):
    """Which of the published labels, and what becomes of noise."""

    source: str = Field(description="folder with .hea and .mat files at any depth, or training2017.zip")
    fs_hz: float = Field(
        300, gt=0, le=10_000, description="sampling rate of the store", json_schema_extra={"unit": "Hz"}
    )
    duration_s: float = Field(
        30, gt=0, description="length of the store's records: longer ones lose their end, shorter ones are padded",
        json_schema_extra={"unit": "s"},
    )  # fmt: skip
    reference: str | None = Field(
        None,
        description=f"CSV of record and class; found in the source or beside it by default: {' or '.join(REFERENCES)}",
    )
    drop_noise: bool = Field(False, description="leave out records of class ~, too noisy to tell")
    skip_missing: bool = Field(False, description="leave out records of the reference whose files are not there")
    n_folds: int = Field(10, ge=3, description="number of folds: the last is for test, the one before for validation")
    seed: int = Field(18, ge=0, description="seed of the folds")


class Reference(NamedTuple):
    """The labels, and the file that they are from."""

    name: str
    classes: Mapping[str, str]  # record -> class


class Listing(NamedTuple):
    """The files of the source: paths on disk, or in the archive."""

    source: Path
    shown: str  # the source as it was given, for messages
    files: tuple[str, ...]

    @property
    def is_archive(self) -> bool:
        return self.source.is_file()


def build_reader(config: Challenge2017Config) -> RecordReader:
    """Read the labels, and look for every record's files.

    Raises:
        ValueError: the reference is missing or malformed, or records are not there.
    """
    listing = _list_files(config.source)
    places = _find_records(listing)
    reference = _read_reference(listing, config.reference)
    record_ids = _present(reference, places, config)
    n_missing = len(reference.classes) - len(record_ids)
    classes: tuple[str, ...] = CLASSES
    if config.drop_noise:
        record_ids, classes = [name for name in record_ids if reference.classes[name] != "~"], CLASSES[:-1]
    rhythm_N = np.array([classes.index(reference.classes[name]) for name in record_ids], np.int64)
    header = Header(
        kind="challenge2017",
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=LEADS,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={"rhythm": LabelSet("rhythm", "multiclass", classes), AF.name: AF},
        folds=fold_roles(config.n_folds),
        patients_known=False,
        notes=tuple(_notes(reference, n_missing, config)),
    )
    read_record = read_zipped_wfdb if listing.is_archive else read_wfdb
    index = _index(record_ids, rhythm_N, places, config)
    return RecordReader(header, index, read_record, config.nan, _without_class(places, reference))


def _index(
    record_ids: Sequence[str], rhythm_N: NDArray[np.int64], places: Mapping[str, Place], config: Challenge2017Config
) -> Index:
    one_hot_NK = np.eye(len(CLASSES), dtype=np.float32)[rhythm_N]
    return Index(
        places=[places[name] for name in record_ids],
        record_ids=np.array(record_ids, np.str_),
        patient_ids=np.array(record_ids, np.str_),
        folds=stratified_folds(one_hot_NK, np.array(record_ids), config.seed, config.n_folds),
        labels={
            "rhythm": rhythm_N[:, np.newaxis].astype(np.float32),
            AF.name: (rhythm_N[:, np.newaxis] == CLASSES.index("A")).astype(np.float32),
        },
    )


def _list_files(shown: str) -> Listing:
    source = Path(shown).absolute()  # workers run in other folders
    if source.is_dir():
        return Listing(source, shown, tuple(sorted(str(path) for path in source.rglob("*") if path.is_file())))
    try:
        with zipfile.ZipFile(source) as archive:
            return Listing(source, shown, tuple(archive.namelist()))
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{shown} is neither a folder nor a zip that can be read ({error}); training2017.zip, or the folder "
            "that it unpacks to, is needed"
        ) from None


def _find_records(listing: Listing) -> dict[str, Place]:
    """Return where each record is that has a header and a signal."""
    files, places = set(listing.files), dict[str, Place]()
    for file in listing.files:
        stem, suffix = file.removesuffix(".hea"), PurePosixPath(file).suffix
        signals = [each for each in (".mat", ".dat") if stem + each in files]
        name = PurePosixPath(stem).name
        if suffix != ".hea" or not signals or name.startswith("."):
            continue
        if name in places:
            raise ValueError(
                f"{listing.shown}: record {name} is there twice, at last as {file}; the validation set repeats records "
                "of the training set: give the folder of one of them"
            )
        places[name] = ZippedRecord(str(listing.source), stem, signals[0]) if listing.is_archive else stem
    return places


def _read_reference(listing: Listing, given: str | None) -> Reference:
    if given is not None:
        return _parse_reference(_read_text(Path(given)), given)
    for name in REFERENCES:
        beside = listing.source.parent / name
        if listing.is_archive and beside.is_file():
            return _parse_reference(_read_text(beside), name)
        inside = [file for file in listing.files if PurePosixPath(file).name == name]
        if inside and listing.is_archive:
            with zipfile.ZipFile(listing.source) as archive:
                return _parse_reference(archive.read(inside[0]).decode("utf-8-sig"), name)
        if inside:
            return _parse_reference(_read_text(Path(inside[0])), name)
    raise ValueError(
        f"{listing.shown}: neither {' nor '.join(REFERENCES)} is in it or beside it; "
        "download one, or name a CSV of record and class with --reference"
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read ({error}); a CSV of record and class is needed") from None


def _parse_reference(text: str, name: str) -> Reference:
    """Read rows of record and class; the first row may be a header."""
    rows = [row for row in csv.reader(text.splitlines()) if row]
    classes: dict[str, str] = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2 or (row[1] not in CLASSES and number > 1):
            raise ValueError(
                f"{name}: row {number} must be a record and its class, one of {' '.join(CLASSES)}, "
                f"got {','.join(row)!r}"
            )
        if row[1] in CLASSES and classes.setdefault(row[0], row[1]) != row[1]:
            raise ValueError(f"{name}: row {number} gives record {row[0]} another class than a row before; remove one")
    return Reference(name, classes)


def _present(reference: Reference, places: Mapping[str, Place], config: Challenge2017Config) -> list[str]:
    """Return the records that have a class and files, in the order of the reference."""
    present = [name for name in reference.classes if name in places]
    missing = [name for name in reference.classes if name not in places]
    if not present:
        raise ValueError(
            f"{config.source}: none of the {len(missing)} records of {reference.name} is there; download them"
        )
    if missing and not config.skip_missing:
        raise ValueError(
            f"{config.source}: {len(missing)} of the {len(reference.classes)} records of {reference.name} are not "
            f"there, the first is {missing[0]}; download them, or leave them out with skip_missing (--skip-missing)"
        )
    return present


def _without_class(places: Mapping[str, Place], reference: Reference) -> list[Quarantined]:
    return [
        Quarantined(name, f"{reference.name} has no row for it, so its class is unknown")
        for name in sorted(places)
        if name not in reference.classes
    ]


def _notes(reference: Reference, n_missing: int, config: Challenge2017Config) -> list[str]:
    counts = Counter(reference.classes.values())
    notes = [
        f"labels are those of {reference.name}: {', '.join(f'{name} {counts[name]:,}' for name in CLASSES)}",
        "patients are unknown: one with several records may be in several folds",
    ]
    if n_missing:
        notes.append(f"{n_missing:,} records of the reference are left out, as their files were not there")
    if config.drop_noise:
        notes.append("records of class ~ (noise) are left out")
    return notes
