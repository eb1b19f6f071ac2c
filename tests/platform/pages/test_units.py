"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from platform.pages.units import format_number


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.4254, 4, "0.425"),
        (0.0, 3, "0.00"),
        (-0.0164, 4, "-0.016"),
        (12.867, 3, "12.9"),
        (12.867, 4, "12.87"),
        (5069.28, 3, "5,069"),
        (121618.6, 3, "121,619"),
        (math.nan, 3, "nan"),
    ],
)
def test_a_number_has_its_digits_and_all_before_the_point(value: float, digits: int, text: str) -> None:
    assert format_number(value, digits) == text
