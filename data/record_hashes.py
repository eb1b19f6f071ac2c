"""Hashes of record ids: they tell whether two data sets share records, without naming any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

N_DIGITS = 16  # 64 bits: among ten million records, two share a hash by chance once in 400,000 data sets


def hash_records(kind: str, record_ids: Iterable[str]) -> list[str]:
    """Return the sorted hashes of records of a kind of data set, such as ptbxl; ids are unique within a kind."""
    return sorted(hashlib.sha256(f"{kind}:{record}".encode()).hexdigest()[:N_DIGITS] for record in record_ids)
