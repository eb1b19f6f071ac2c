"""What the injections share, and the table that a session prints of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.tally import TALLY
from tests.sweeps.conftest import base, finished, offline, place, pytest_collection_modifyitems, scripted

__all__ = ["base", "finished", "offline", "place", "pytest_collection_modifyitems", "scripted"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was injected, and what became of it."""
    if TALLY:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _end_what_a_failed_test_has_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """End, by their ids, the processes that carry the test's mark."""
    place = request.getfixturevalue("offline") if "offline" in request.fixturenames else None
    yield
    for process in place.processes() if place is not None else ():
        process.kill()
