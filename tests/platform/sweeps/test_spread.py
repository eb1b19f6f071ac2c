"""Mean, deviation and Student's interval, against scipy's own test."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from platform.sweeps.spread import Spread


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [0.91, 0.87], list(np.random.default_rng(0).normal(size=17))])
def test_the_interval_is_that_of_students_test(values: list[float]) -> None:
    spread = Spread.of(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (spread.n, spread.mean, spread.sd) == (len(values), np.mean(values), np.std(values, ddof=1))
    assert (spread.low, spread.high) == pytest.approx((low, high), rel=1e-12)


def test_three_values_by_hand() -> None:
    spread = Spread.of([1, 2, 3])
    margin = 4.302652729696142 / 3**0.5  # the 97.5 % point of t with 2 degrees of freedom
    assert (spread.low, spread.high) == pytest.approx((2 - margin, 2 + margin))


def test_equal_values_have_no_width() -> None:
    spread = Spread.of([0.5, 0.5, 0.5])
    assert (spread.sd, spread.low, spread.high) == (0, 0.5, 0.5)


def test_one_value_has_no_deviation() -> None:
    with pytest.raises(ValueError, match="a deviation needs 2 values at least, but got 1"):
        Spread.of([0.9])
