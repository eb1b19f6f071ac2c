"""Counts of what was injected, and of what became of the trials that were hit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from platform.sweeps.journal import ENDED
from tests.sweeps.aftermath import check_aftermath
from tests.sweeps.workplace import Workplace

COLUMNS = ("injected", "survived", "lost", "duplicated", "leaked")


class Tally:
    """A row for each kind of fault.

    An injection has survived when the sweep came to its end and every trial ended as promised; `lost` counts trials
    without an end, `duplicated` trials with two, `leaked` sweeps that left processes, resources or files.
    """

    def __init__(self) -> None:
        self._rows: dict[str, Counter[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def check(self, fault: str, place: Workplace, n_injected: int = 1, name: str = "tiny-001") -> None:
        """Count the injections of a fault into a sweep that has ended, then hold it to what is always true."""
        row = self._rows.setdefault(fault, Counter())
        record, ends = place.record(name), Counter(e.trial for e in place.events(name) if e.kind == "ended")
        row["injected"] += n_injected
        row["lost"] += sum(trial.state not in ENDED for trial in record.trials.values())
        row["duplicated"] += sum(count > 1 for count in ends.values())
        row["leaked"] += 1  # until the checks below say otherwise
        check_aftermath(place, name)
        row["leaked"] -= 1
        row["survived"] += n_injected

    def lines(self) -> Iterator[str]:
        width = max(map(len, self._rows))
        yield f"{'':<{width}}  " + "  ".join(COLUMNS)
        for fault, row in self._rows.items():
            yield f"{fault:<{width}}  " + "  ".join(f"{row[column]:>{len(column)}}" for column in COLUMNS)


TALLY = Tally()
