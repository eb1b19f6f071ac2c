"""What tests with several nodes share with those of whole sweeps."""

from __future__ import annotations

from tests.faults.conftest import (
    _end_what_a_failed_test_has_left,
    base,
    offline,
    pytest_collection_modifyitems,
    scripted,
)

__all__ = ["_end_what_a_failed_test_has_left", "base", "offline", "pytest_collection_modifyitems", "scripted"]
