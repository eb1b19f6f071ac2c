"""Hashes of record ids: they tell whether two data sets share records, without naming any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from data.kinds.joined import KIND, SEPARATOR

N_DIGITS = 16  # 64 bits: among ten million records, two share a hash by chance once in 400,000 data sets


def hash_records(kind: str, record_ids: Iterable[str]) -> list[str]:
    """Return the sorted hashes of records of a kind of data set, such as ptbxl; ids are unique within a kind.

    Those of joined stores name their kind themselves, and have the hash that they have there.
    """
    named = record_ids if kind == KIND else (f"{kind}{SEPARATOR}{record}" for record in record_ids)
    return sorted(hashlib.sha256(record.encode()).hexdigest()[:N_DIGITS] for record in named)
