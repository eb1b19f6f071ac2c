"""What frozen functions make of the records of a store, computed once a record and kept on disk for all trials.

A function that no trial changes - a backbone below its first trained layer, an expert - answers the same for a record
in every trial and every epoch. Its answers are kept beside the store, record by record, so that folds, other splits and
later sweeps share what was computed. They are read memory-mapped: the processes of a machine share one copy.

A function's answers lie in a folder of their own, in parts that are there whole or not at all. Of several trials that
want the same at once, one computes and the others wait. The least recently used go where all together take too much.

N: records of a split, M: records of a part, B: records of a batch, L: leads, T: timesteps; answers have any shape.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import Batch, Source, Split
from data.order import rank_rows

FORMAT: Final = 1  # raised where equal keys would mean other numbers
BATCH_RECORDS: Final = 64
FREE_DISK_SHARE: Final = 0.5  # that one part may take: checkpoints want to be written too
LOCK_NAME: Final = "lock"
WAYS_OUT: Final = "make room, delete the features of other stores, or compute them anew in each trial"

Features = NDArray[np.float32]


@dataclass(frozen=True)
class FrozenFunction:
    """A function of records that no trial changes.

    Attributes:
        name: begins the name of its folder.
        digest: of all that its answers follow from but the records; see `digest_of`.
        compute: ecg_BLT on `device` -> answers, whose first axis is the record's; each follows from its record alone.
    """

    name: str
    digest: str
    compute: Callable[[Tensor], Tensor]
    device: torch.device

    def answer(self, ecg_BLT: Features) -> Features:
        """Ask for some records, without gradients; the answers are on the CPU."""
        with torch.inference_mode():
            answer = self.compute(torch.from_numpy(ecg_BLT).to(self.device))
            return answer.float().cpu().numpy().astype("<f4", copy=False)


def digest_of(modules: Iterable[nn.Module], *facts: object) -> str:
    """Return the sha256 of the modules' parameters and buffers, bit for bit, and of `facts` as text."""
    sha = hashlib.sha256(repr((FORMAT, facts)).encode())
    for module in modules:
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


# ------------------------------------------------------------------ computing


class Answered(NamedTuple):
    """Answers for some of the records that were asked for, one run of them: from `first` on."""

    first: int
    features_B: Features


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


# ------------------------------------------------------------------ keeping


@dataclass(frozen=True)
class KeptFeatures:
    """The features of a split's records, memory-mapped.

    Attributes:
        parts: features of the records of each part.
        part_N: the part that each record of the split is in; row_N: its row there.
    """

    parts: tuple[Features, ...]
    part_N: NDArray[np.int64]
    row_N: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a record's features."""
        return self.parts[0].shape[1:]

    def take(self, index_B: NDArray[np.int64]) -> Features:
        """Return a copy of the features of some records, by their positions in the split."""
        features_B = np.empty((len(index_B), *self.shape), np.float32)
        part_B, row_B = self.part_N[index_B], self.row_N[index_B]
        for part in np.unique(part_B):
            of_part_B = part_B == part
            features_B[of_part_B] = self.parts[part][row_B[of_part_B]]
        return features_B


@dataclass(frozen=True)
class FeatureSplit(ABC):
    """A `data.dataset.Split` whose records are features; `base` has the rest."""

    base: Split

    @property
    def n_records(self) -> int:
        return self.base.n_records

    @property
    def length_N(self) -> NDArray[np.int32]:
        return self.base.length_N

    @property
    def labels_NK(self) -> NDArray[np.float32]:
        return self.base.labels_NK

    @property
    def record_ids(self) -> NDArray[np.str_]:
        return self.base.record_ids

    @property
    def patient_ids(self) -> NDArray[np.str_]:
        return self.base.patient_ids

    @abstractmethod
    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield this rank's slice of each global batch; see `data.dataset.Split.batches`."""


@dataclass(frozen=True)
class KeptSplit(FeatureSplit):
    """Records are what one function makes of them."""

    features: KeptFeatures

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        for index_B in rank_rows(self.n_records, batch_size, shuffle_seed, rank, world_size):
            yield Batch(self.features.take(index_B), self.labels_NK[index_B], index_B, self.length_N[index_B])


@dataclass(frozen=True)
class FeatureCache:
    """A folder of answers. Nothing in it is needed: it may be deleted whenever no trial runs.

    Attributes:
        most_bytes: that all answers may take together.
    """

    folder: Path
    most_bytes: int

    @staticmethod
    def beside(source: Source) -> FeatureCache:
        """Return the cache of a store, `STORE.features`."""
        return FeatureCache(source.store.with_name(f"{source.store.name}.features"), source.features_bytes)

    def get(self, function: FrozenFunction, split: Split, source: Source, fill: Fill = answer_here) -> KeptFeatures:
        """Return the answers of `function` for every record of `split`; those that are not there are computed.

        Raises:
            ValueError: the disk has no room for them, or can't be written; one line, with the ways out.
        """
        place = self.place_of(function, source)
        try:
            with _locked(place):
                os.utime(place)  # when it was last used
                found = _find(place, split.record_ids)
                row_M = np.flatnonzero(found.part_N < 0)
                if not len(row_M):
                    return found
                self._write_part(place, split.record_ids[row_M], fill(function, split, row_M))
                return _find(place, split.record_ids)
        except OSError as error:
            raise ValueError(f"features can't be kept in {place} ({error.strerror}); {WAYS_OUT}") from error

    def n_lacking(self, function: FrozenFunction, split: Split, source: Source) -> int:
        """Return how many records of `split` are not there yet."""
        place = self.place_of(function, source)
        with _locked(place):
            return int((_find(place, split.record_ids).part_N < 0).sum())

    def place_of(self, function: FrozenFunction, source: Source) -> Path:
        """Return the folder of a function's answers: its name says what they follow from."""
        text = f"{function.digest} {source.fingerprint} {source.preprocessing}"
        return self.folder / f"{function.name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def _write_part(self, place: Path, record_ids: NDArray[np.str_], answers: Iterator[Answered]) -> None:
        """Write features, then ids: a part is there when its ids are."""
        name = hashlib.sha256("\0".join(record_ids.tolist()).encode()).hexdigest()[:16]
        partial = place / f"{name}.partial"
        try:
            self._write_features(partial, record_ids, answers)
            os.replace(partial, place / f"{name}.npy")
            with partial.open("wb") as file:
                np.save(file, record_ids)
            os.replace(partial, place / f"{name}.ids.npy")
        finally:
            partial.unlink(missing_ok=True)

    def _write_features(self, path: Path, record_ids: NDArray[np.str_], answers: Iterator[Answered]) -> None:
        """Write answers as they come, each at its place: a full disk is then an error, where a memory map would end the
        process."""
        n_written, begin = 0, 0
        with path.open("wb") as file:
            for first, features_B in answers:
                record_bytes = 4 * math.prod(features_B.shape[1:])
                if begin == 0:
                    self._make_room(path.parent, len(record_ids) * record_bytes + record_ids.nbytes)
                    shape = (len(record_ids), *features_B.shape[1:])
                    npy.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    begin = file.tell()
                file.seek(begin + first * record_bytes)
                file.write(features_B.astype("<f4", copy=False).tobytes())
                n_written += len(features_B)
        assert n_written == len(record_ids), (n_written, len(record_ids))

    def _make_room(self, place: Path, n_bytes: int) -> None:
        """Remove the answers that were used longest ago, but for `place`, until there is room for so many bytes.

        Raises:
            ValueError: there is still none; with the ways out.
        """
        sizes = {lock.parent: _size_bytes(lock.parent) for lock in self.folder.glob(f"*/{LOCK_NAME}")}
        others = sorted((each for each in sizes if each != place), key=lambda each: each.stat().st_mtime)
        while others and n_bytes + sum(sizes.values()) > self.most_bytes:
            oldest = others.pop(0)
            if _remove(oldest):
                del sizes[oldest]
        held_bytes = n_bytes + sum(sizes.values())
        if held_bytes > self.most_bytes:
            raise ValueError(
                f"features take {held_bytes / 1e9:.3g} GB in {self.folder}, and data.features_bytes is "
                f"{self.most_bytes / 1e9:.3g} GB; raise it, or compute them anew in each trial (feature_cache: off)"
            )
        _check_disk(place, n_bytes)


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / LOCK_NAME):
        yield


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


def _size_bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in place.glob("*.npy"))


def _remove(place: Path) -> bool:
    """Remove what a folder holds, unless someone is just filling it; who has mapped it keeps it.

    The lock stays, since others may wait for it.
    """
    try:
        with FileLock(place / LOCK_NAME, timeout=0):
            for path in sorted(place.glob("*.npy"), key=lambda path: not path.name.endswith(".ids.npy")):
                path.unlink()  # ids first: a part is there when they are
    except Timeout:
        return False
    return True


def _check_disk(folder: Path, n_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if n_bytes > FREE_DISK_SHARE * free_bytes:
        raise ValueError(
            f"features take {n_bytes / 1e9:.3g} GB, and at most half of the {free_bytes / 1e9:.3g} GB that are free in "
            f"{folder} may go to them; {WAYS_OUT} (feature_cache: off)"
        )
