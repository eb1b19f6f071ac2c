"""What frozen functions make of single records, kept on disk record by record.

Beside `trainables.features`, which keeps one array a split, large ones, for records in one order: here any split that
has a record finds it, so that folds, other splits and later sweeps on the same store share what was computed, and an
ensemble with one expert more or less computes that expert alone.

A function's answers lie in a folder of their own, in parts that are written whole or not at all. Of several trials that
want the same at once, one computes and the others wait.

N: records of a split, M: records of a part, B: records of a batch, D: numbers of a record.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy
from numpy.typing import NDArray

from data.dataset import Source, Split
from trainables.features import BATCH_RECORDS, WAYS_OUT, Features, FrozenFunction, check_room


class Answered(NamedTuple):
    """Answers for some of the records that were asked for, one run of them: from `first` on."""

    first: int
    features_BD: Features


Fill = Callable[[FrozenFunction, Split, NDArray[np.int64]], Iterator[Answered]]
"""(function, split, ascending rows of it) -> the answers for those rows, each once, in any order."""


def answer_here(function: FrozenFunction, split: Split, row_M: NDArray[np.int64]) -> Iterator[Answered]:
    """Compute in this process: a `Fill`."""
    for first, ecg_BLT in batches_of(split, row_M):
        yield Answered(first, function.answer(ecg_BLT))


def batches_of(
    split: Split, row_M: NDArray[np.int64], rank: int = 0, world_size: int = 1
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (position of the first in `row_M`, ecg_BLT) of a rank's share of the records, in stored order."""
    for batch in split.batches(BATCH_RECORDS * world_size, rank=rank, world_size=world_size):
        wanted_B = np.isin(batch.index_B, row_M, assume_unique=True)
        if wanted_B.any():
            first = int(np.searchsorted(row_M, batch.index_B[wanted_B][0]))
            yield first, batch.ecg_BLT[wanted_B]


@dataclass(frozen=True)
class KeptFeatures:
    """The features of a split's records, memory-mapped: the processes of a machine share one copy.

    Attributes:
        parts: features_MD of each part.
        part_N: the part that each record of the split is in; row_N: its row there.
    """

    parts: tuple[Features, ...]
    part_N: NDArray[np.int64]
    row_N: NDArray[np.int64]

    @property
    def width(self) -> int:
        """D."""
        return int(self.parts[0].shape[1])

    def take(self, index_B: NDArray[np.int64]) -> Features:
        """Return features_BD of some records, by their positions in the split."""
        features_BD = np.empty((len(index_B), self.width), np.float32)
        part_B, row_B = self.part_N[index_B], self.row_N[index_B]
        for part in np.unique(part_B):
            of_part_B = part_B == part
            features_BD[of_part_B] = self.parts[part][row_B[of_part_B]]
        return features_BD


@dataclass(frozen=True)
class RecordFeatures:
    """A folder of answers, record by record. Nothing in it is needed: it may be deleted whenever no trial runs."""

    folder: Path

    @staticmethod
    def beside(source: Source) -> RecordFeatures:
        """Return those of a store, in `STORE.features`."""
        return RecordFeatures(source.store.with_name(f"{source.store.name}.features"))

    def get(self, function: FrozenFunction, split: Split, source: Source, fill: Fill = answer_here) -> KeptFeatures:
        """Return the answers of `function` for every record of `split`; those that are not there are computed.

        Raises:
            ValueError: the disk has no room for them, or can't be written; one line, with the ways out.
        """
        place = self.place_of(function, source)
        try:
            place.mkdir(parents=True, exist_ok=True)
            with FileLock(place / "lock"):
                row_M = np.flatnonzero(_find(place, split.record_ids).part_N < 0)
                if len(row_M):
                    _write_part(place, split.record_ids[row_M], fill(function, split, row_M))
            return _find(place, split.record_ids)
        except OSError as error:
            raise ValueError(f"features can't be kept in {place} ({error.strerror}); {WAYS_OUT}") from error

    def n_lacking(self, function: FrozenFunction, split: Split, source: Source) -> int:
        """Return how many records of `split` are not there yet."""
        return int((_find(self.place_of(function, source), split.record_ids).part_N < 0).sum())

    def place_of(self, function: FrozenFunction, source: Source) -> Path:
        """Return the folder of a function's answers: its name says what they follow from."""
        text = f"{function.digest} {source.fingerprint} {source.preprocessing}"
        return self.folder / f"{function.name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _find(place: Path, record_ids: NDArray[np.str_]) -> KeptFeatures:
    """Look the records up in the parts of a folder; -1 for those that are in none."""
    paths = sorted(place.glob("*.ids.npy"))
    part_N, row_N = np.full(len(record_ids), -1), np.zeros(len(record_ids), np.int64)
    for part, path in enumerate(paths):
        own_ids = np.load(path)
        order_M = np.argsort(own_ids)
        at_N = np.minimum(np.searchsorted(own_ids, record_ids, sorter=order_M), len(own_ids) - 1)
        found_row_N = order_M[at_N]
        is_here_N = own_ids[found_row_N] == record_ids
        part_N[is_here_N], row_N[is_here_N] = part, found_row_N[is_here_N]
    parts = tuple(np.load(path.with_name(path.name.replace(".ids", "")), mmap_mode="r") for path in paths)
    return KeptFeatures(parts, part_N, row_N)


def _write_part(place: Path, record_ids: NDArray[np.str_], answers: Iterator[Answered]) -> None:
    """Write features, then ids: a part is there when its ids are."""
    name = hashlib.sha256("\0".join(record_ids.tolist()).encode()).hexdigest()[:16]
    partial = place / f"{name}.partial"
    try:
        _write_features(partial, len(record_ids), answers)
        os.replace(partial, place / f"{name}.npy")
        with partial.open("wb") as file:
            np.save(file, record_ids)
        os.replace(partial, place / f"{name}.ids.npy")
    finally:
        partial.unlink(missing_ok=True)


def _write_features(path: Path, n_records: int, answers: Iterator[Answered]) -> None:
    """Write answers as they come, each at its place: a full disk is then an error, where a memory map would end the
    process."""
    n_written, begin = 0, 0
    with path.open("wb") as file:
        for first, features_BD in answers:
            if begin == 0:
                shape = (n_records, features_BD.shape[1])
                check_room(path.parent, 4 * n_records * features_BD.shape[1])
                npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                begin = file.tell()
            file.seek(begin + 4 * first * features_BD.shape[1])
            file.write(features_BD.astype("<f4", copy=False).tobytes())
            n_written += len(features_BD)
    assert n_written == n_records, (n_written, n_records)
