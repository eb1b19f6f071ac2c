"""Counts of what was injected, and of what became of the trials that were hit; `tests/fault_table.py` prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from platform.sweeps.journal import ENDED
from tests.fault_table import COLUMNS, PROPERTY
from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.workplace import Workplace


class Tally:
    """Counts the injections of one test.

    Args:
        record_property: pytest's fixture of that name.
    """

    def __init__(self, record_property: Callable[[str, object], None]) -> None:
        self._record_property = record_property

    def check(self, fault: str, place: Workplace, n_injected: int = 1, name: str = "tiny-001") -> None:
        """Count the injections of a fault into a sweep that has ended, then hold it to what is always true."""
        record, ends = place.record(name), Counter(e.trial for e in place.events(name) if e.kind == "ended")
        counts = dict.fromkeys(COLUMNS, 0) | {
            "injected": n_injected,
            "lost": sum(trial.state not in ENDED for trial in record.trials.values()),
            "duplicated": sum(count > 1 for count in ends.values()),
            "leaked": 1,  # until the checks below say otherwise
        }
        self._record_property(PROPERTY, {"name": fault, "counts": counts})
        check_aftermath(place, name)
        counts |= {"leaked": 0, "survived": n_injected}
