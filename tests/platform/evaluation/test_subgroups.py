"""Which records are in which subgroup."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.kinds.challenge2021 import SOURCE_SETS
from platform.evaluation.subgroups import subgroups


def values(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def groups(**meta: NDArray[np.float32]) -> dict[tuple[str, str], list[int]]:
    return {(each.attribute, each.name): np.flatnonzero(each.mask_N).tolist() for each in subgroups(meta)}


def test_records_of_unknown_sex_are_a_group_of_their_own() -> None:
    assert groups(sex=values(0, 1, np.nan, 1)) == {
        ("sex", "male"): [0],
        ("sex", "female"): [1, 3],
        ("sex", "unknown"): [2],
    }


def test_an_age_band_begins_with_its_first_birthday_and_ends_before_the_next_bands() -> None:
    assert groups(age=values(17.9, 18, 39.9, 40, 59, 60, 79.9, 80, 300)) == {
        ("age", "under 18"): [0],
        ("age", "18 to 39"): [1, 2],
        ("age", "40 to 59"): [3, 4],
        ("age", "60 to 79"): [5, 6],
        ("age", "80 and over"): [7, 8],
    }


def test_sources_have_their_names() -> None:
    assert groups(source_set=values(1, 0, np.nan)) == {
        ("source", SOURCE_SETS[0]): [1],
        ("source", SOURCE_SETS[1]): [0],
        ("source", "unknown"): [2],
    }


def test_what_all_records_share_and_other_numbers_make_no_groups() -> None:
    assert groups(sex=values(1, 1), age=values(np.nan, np.nan), pvc_bursts=values(1, 2)) == {}
