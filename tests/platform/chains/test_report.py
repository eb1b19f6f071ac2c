"""What the report of a chain says first."""

from __future__ import annotations

import pytest

from platform.chains.report import StageRow


@pytest.mark.parametrize(
    ("headline", "expected"),
    [
        (
            "val/mae 13.20, test/mae 12.87 (10.16 to 15.40), test/r2 0.27 (0.08 to 0.41)",
            "test/mae 12.87 (10.16 to 15.40)",
        ),
        ("val/macro_f1 0.28, test/auroc 0.69", "test/auroc 0.69"),
        ("val/mse 1.43", "val/mse 1.43"),
        ("", ""),
    ],
)
def test_a_stages_outcome_is_its_first_number_on_test(headline: str, expected: str) -> None:
    assert StageRow("ensemble", "sweep of enecg", "done", headline, 6, 54, "1 min", "").outcome == expected
