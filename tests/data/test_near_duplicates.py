from __future__ import annotations

import numpy as np
import pytest

from data.near_duplicates import near_duplicates

RNG = np.random.default_rng(0)
TRAIN = RNG.standard_normal((3000, 40)).astype(np.float32)  # more than a block


def test_copies_scaled_shifted_and_noisy_are_found_and_strangers_are_not() -> None:
    held = np.stack([TRAIN[7], 3 * TRAIN[2500] + 5, TRAIN[3] + 0.02 * RNG.standard_normal(40), -TRAIN[4]])
    assert near_duplicates(held.astype(np.float32), TRAIN).tolist() == [True, True, True, False]


def test_the_rule_is_numpys_correlation() -> None:
    held = RNG.standard_normal((50, 40)).astype(np.float32)
    highest = np.corrcoef(held, TRAIN)[:50, 50:].max(axis=1)
    for bound in (0.4, 0.5, 0.6):
        assert near_duplicates(held, TRAIN, bound).tolist() == (highest >= bound).tolist()


def test_constant_records_match_nothing() -> None:
    constant = np.ones((2, 40), np.float32)
    assert not near_duplicates(constant, np.concatenate([TRAIN, constant])).any()


def test_records_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="records must be equally long, but got 30 and 40 values"):
        near_duplicates(np.zeros((2, 30), np.float32), TRAIN)
