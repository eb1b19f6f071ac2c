"""Subgroups of a split's records: by sex, by age band, and by the source they come from, where the store has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.kinds.challenge2021 import SOURCE_SETS

AGE_BANDS: Mapping[str, tuple[float, float]] = {  # years, the upper end left out
    "under 18": (0, 18),
    "18 to 39": (18, 40),
    "40 to 59": (40, 60),
    "60 to 79": (60, 80),
    "80 and over": (80, math.inf),
}
SEXES: Mapping[str, float] = {"male": 0, "female": 1}
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Subgroup:
    """Some of N records: `mask_N` has those for which `attribute` (sex, age, source) is `name`."""

    attribute: str
    name: str
    mask_N: NDArray[np.bool_]


def subgroups(meta: Mapping[str, NDArray[np.float32]]) -> Iterator[Subgroup]:
    """Yield the groups that have records; an attribute that all records share, or that none has, makes none.

    Args:
        meta: values_N by name, as in `data.reader.RecordBlock`.
    """
    for attribute, masks in _masks(meta).items():
        known_N = np.any(list(masks.values()), axis=0)
        filled = {name: mask_N for name, mask_N in {**masks, UNKNOWN: ~known_N}.items() if mask_N.any()}
        if len(filled) > 1:
            yield from (Subgroup(attribute, name, mask_N) for name, mask_N in filled.items())


def _masks(meta: Mapping[str, NDArray[np.float32]]) -> dict[str, dict[str, NDArray[np.bool_]]]:
    masks: dict[str, dict[str, NDArray[np.bool_]]] = {}
    if "sex" in meta:
        masks["sex"] = {name: meta["sex"] == code for name, code in SEXES.items()}
    if "age" in meta:
        age_N = meta["age"]
        masks["age"] = {name: (age_N >= low) & (age_N < high) for name, (low, high) in AGE_BANDS.items()}
    if "source_set" in meta:
        masks["source"] = {name: meta["source_set"] == code for code, name in enumerate(SOURCE_SETS)}
    return masks
