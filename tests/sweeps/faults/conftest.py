"""The table that a session prints of what it has injected."""

from __future__ import annotations

import pytest

from tests.sweeps.faults.tally import TALLY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was injected, and what became of it."""
    if TALLY:
        terminalreporter.section("faults")
        for line in TALLY.lines():
            terminalreporter.write_line(line)
