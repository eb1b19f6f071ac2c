"""Records that have exactly the same signal, which some public data sets have: within a fold they count twice, across
folds they are a leak."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from data.reader import RecordBlock

HASH_BYTES = 12  # by chance equal among a million records: once in 1e17 data sets


@dataclass
class HashedRecords:
    """The records of a data set, collected block by block, with a hash of each signal."""

    record_ids: list[str] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)

    def add(self, record_ids: Sequence[str], folds: Sequence[int], hashes: Sequence[str]) -> None:
        self.record_ids += record_ids
        self.folds += folds
        self.hashes += hashes


def signal_hashes(block: RecordBlock) -> tuple[str, ...]:
    """Return a hash of each record's signal, padding excluded."""
    return tuple(
        hashlib.blake2b(ecg_LT[:, :length].tobytes(), digest_size=HASH_BYTES).hexdigest()
        for ecg_LT, length in zip(block.ecg_NLT, block.length_N, strict=True)
    )


def find_duplicates(records: HashedRecords) -> list[tuple[int, str, int]]:
    """Return (number of the group, record id, fold) of all records that share their signal with another one."""
    first: dict[str, int] = {}
    groups: dict[str, list[int]] = {}
    for position, digest in enumerate(records.hashes):
        if digest in first:
            groups.setdefault(digest, [first[digest]]).append(position)
        else:
            first[digest] = position
    return [
        (number, records.record_ids[position], records.folds[position])
        for number, positions in enumerate(groups.values(), start=1)
        for position in positions
    ]
