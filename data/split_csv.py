"""A published split of a data set: one CSV file each for training, validation and test.

Their first column names the records, by id or by path; other columns are not read. Both HuBERT-ECG's reproducibility
files and those of the Challenge's classifiers look like this.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

SPLIT_ROLES: Mapping[str, tuple[int, ...]] = MappingProxyType({"train": (1,), "val": (2,), "test": (3,)})


class Split(NamedTuple):
    """What a split says of the records that are there."""

    folds: Mapping[str, int]  # record id -> fold; records that it does not name are left out
    notes: tuple[str, ...]


def read_split(paths: Sequence[str], record_ids: Sequence[str]) -> Split:
    """Read the split of the records that are there, from the files of train, val and test.

    Raises:
        ValueError: a file can't be read, a record is in two of them, or one names no record that is there.
    """
    named: dict[str, int] = {}
    for fold, path in enumerate(paths, start=1):
        rows = _first_column(path)
        for name in rows:
            if named.setdefault(name, fold) != fold:
                raise ValueError(
                    f"record {name} is in {paths[named[name] - 1]} and in {path}; it must be in one of them only"
                )
        if not set(rows) & set(record_ids):
            raise ValueError(f"{path}: none of its {len(rows)} rows names a record that is there; give its own data")
    folds = {name: named[name] for name in record_ids if name in named}
    counts = (
        (len(record_ids) - len(folds), "records are left out, as the split does not name them"),
        (len(named) - len(folds), "records of the split are not there"),
    )
    return Split(folds, tuple(f"{count:,} {what}" for count, what in counts if count))


def _first_column(path: str) -> list[str]:
    """Return the record ids below the header: file names without folder and suffix."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            rows = [row[0] for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} can't be read ({error}); a CSV file with a header is needed") from None
    return [PurePosixPath(row.strip()).name.partition(".")[0] for row in rows[1:]]
