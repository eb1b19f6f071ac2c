"""Ranks share every global batch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.order import rank_slices, record_order


@given(n_records=st.integers(0, 200), batch_size=st.integers(1, 40), world_size=st.integers(1, 5))
def test_ranks_slices_join_to_the_global_batches(n_records: int, batch_size: int, world_size: int) -> None:
    order = np.arange(n_records)
    ranks = [list(rank_slices(n_records, batch_size, rank, world_size)) for rank in range(world_size)]
    whole = list(rank_slices(n_records, batch_size, 0, 1))
    for number, batch in enumerate(whole):
        parts = [order[slices[number]] for slices in ranks]
        np.testing.assert_array_equal(np.concatenate(parts), order[batch])
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1
    assert sum(each.stop - each.start for each in whole) == n_records


def test_the_order_depends_on_the_seed_alone() -> None:
    np.testing.assert_array_equal(record_order(50, 3), record_order(50, 3))
    assert (record_order(50, 3) != record_order(50, 4)).any()
    np.testing.assert_array_equal(record_order(5, None), range(5))


def test_impossible_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="`batch_size >= 1` must hold, but got 0"):
        list(rank_slices(5, 0, 0, 1))
    with pytest.raises(ValueError, match="rank=2, world_size=2"):
        list(rank_slices(5, 2, 2, 2))
