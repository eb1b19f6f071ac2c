"""Neighbourhood pruning: a value near one that failed is not proposed again (the ECM search's `avoid.txt`).

In the original (github.com/JokerJostar/ECM-ATML_loongarch64) a learning rate r is skipped if |r - v| <= 2 STEP for a
learning rate v whose training stayed below a threshold. Here the parameter, the threshold, the radius and its scale are
the spec's, and architectures keep apart. All is a view of the journal: which trials failed, and what the file named
in the spec held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from platform.sweeps.journal import Event, Journal, SweepRecord, TrialRecord
from platform.sweeps.study_db import Objectives, outcome_quantities

if TYPE_CHECKING:
    from platform.specs.search_space import SearchSpace
    from platform.specs.sections import AvoidSpec

FILE_NAME: Final = "avoid.txt"
FOLDER_NAME: Final = "avoid"
EVERY_GROUP: Final = ""

_TOLERANCE: Final = 1e-9  # of the radius, which is meant inclusive: 0.0025 - 0.0015 is not 0.001 in floats


class Avoidance:
    """The values that failed, by group, and how near a proposal comes to them.

    Args:
        avoid: the spec's section.
        record: what the journal holds; trials that end later are told by `take`.
    """

    def __init__(self, avoid: AvoidSpec, objectives: Objectives, record: SweepRecord) -> None:
        self._avoid, self._objectives = avoid, objectives
        self.values: dict[str, list[float]] = {}
        for event in record.avoided:
            self._add(event.body["group"], event.body["values"])
        for trial in record.trials.values():
            self.take(trial)

    def take(self, trial: TrialRecord) -> None:
        """Keep away from the value of a trial that has ended, if it failed."""
        if self._has_failed(trial):
            self._add(self._group(trial.params), [float(trial.params[self._avoid.param])])

    def excess(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return by how much a proposal is too near to a value that failed, as shares of the radius.

        Above 0 it is not to be tried.
        """
        place = self._place(float(params[self._avoid.param]))
        known = [*self.values.get(EVERY_GROUP, ()), *self.values.get(self._group(params), ())]
        distance = min((abs(place - self._place(value)) for value in known), default=math.inf)
        if distance == math.inf:
            return {}
        return {self._avoid.text: 1 + _TOLERANCE - distance / self._avoid.radius}

    def _has_failed(self, trial: TrialRecord) -> bool:
        if trial.state == "FAILED":
            return _has_diverged(trial)
        judged = trial.state == "COMPLETED" or trial.stopped_by == "scheduler"
        wanted = self._avoid.constraint
        quantities = outcome_quantities(trial, self._objectives) if judged else {}
        return wanted.quantity in quantities and wanted.excess(quantities) > 0

    def _group(self, params: Mapping[str, Any]) -> str:
        return EVERY_GROUP if self._avoid.per is None else str(params[self._avoid.per])

    def _place(self, value: float) -> float:
        return math.log10(value) if self._avoid.scale == "log" else value

    def _add(self, group: str, values: Sequence[float]) -> None:
        own = self.values.setdefault(group, [])
        own += [value for value in values if value not in own]


def _has_diverged(trial: TrialRecord) -> bool:
    """Whether training itself ended the trial; a crash says nothing about the value."""
    lines = trial.error.strip().splitlines()
    return bool(lines) and lines[-1].startswith(FloatingPointError.__name__)


# ------------------------------------------------------------------ the spec


def avoid_fault(avoid: AvoidSpec, space: SearchSpace, known: Sequence[str]) -> tuple[str, str] | None:
    """Return the key of `search.avoid` at fault and the rule that it breaks, or None.

    Args:
        known: the method's parameters.
    """
    if avoid.param not in space.names:
        searched = ", ".join(space.names) or "nothing"
        return "param", f"must be searched, or nothing can be avoided; got {avoid.param!r}, and searched is {searched}"
    domain = space.parameter(avoid.param).domain
    for value in (domain.from_unit(0.0), domain.from_unit(1 - 1e-12)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return "param", f"must be a number, but {avoid.param} may be {value!r}"
        if avoid.scale == "log" and value <= 0:
            return "scale", f"log needs values above 0, but {avoid.param} may be {value!r}; use linear"
    if avoid.param in (parameter.name for parameter in space.parameters if parameter.when):
        return "param", f"must be a parameter of every trial, but {avoid.param} has a condition"
    if avoid.per is not None and avoid.per not in known:
        return "per", f"must be a parameter of the method, or null for one neighbourhood of all; got {avoid.per!r}"
    return None


# ------------------------------------------------------------------ avoid.txt


def avoided_at_start(avoid: AvoidSpec | None) -> dict[str, list[float]]:
    """Return what the file or folder named in the spec holds, by group.

    Raises:
        ValueError: it can't be read.
    """
    return {} if avoid is None or avoid.read is None else read_avoided(Path(avoid.read))


def new_avoided(avoided: Mapping[str, Sequence[float]], record: SweepRecord, journal: Journal) -> Iterator[Event]:
    """Write into the journal what is not in it yet, and yield the events."""
    for group, values in avoided.items():
        known = {value for event in record.avoided if event.body["group"] == group for value in event.body["values"]}
        new = [value for value in values if value not in known]
        if new:
            yield journal.append("avoided", group=group, values=new)


def read_avoided(place: Path) -> dict[str, list[float]]:
    """Read `avoid.txt` for every group, or a folder with `<group>/avoid.txt`, as sweeps write it.

    One value a line; empty lines and what follows a `#` are skipped.

    Raises:
        ValueError: nothing is there, or a line is no finite number.
    """
    if place.is_dir():
        files = sorted(place.glob(f"*/{FILE_NAME}"))
        if not files:
            raise ValueError(f"search.avoid.read: {place} has no <group>/{FILE_NAME}; name a file, or such a folder")
        return {unquote(path.parent.name): list(_read_values(path)) for path in files}
    if not place.is_file():
        raise ValueError(f"search.avoid.read: {place} is not there; name a file with one value a line, or leave it out")
    return {EVERY_GROUP: list(_read_values(place))}


def _read_values(path: Path) -> Iterator[float]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{path}:{number}: must be one finite number a line, but got {line!r}")
        yield value


class AvoidFiles:
    """Keeps `avoid.txt` in a sweep's folder up to date: one of all, or `avoid/<group>/avoid.txt`."""

    def __init__(self, folder: Path, avoid: AvoidSpec, objectives: Objectives, record: SweepRecord) -> None:
        self._folder, self._record = folder, record
        self._avoidance = Avoidance(avoid, objectives, record)
        self._write()

    def on_event(self, event: Event) -> None:
        if event.kind == "ended":
            self._avoidance.take(self._record.trials[event.trial])
            self._write()

    def _write(self) -> None:
        for group, values in self._avoidance.values.items():
            folder = self._folder if group == EVERY_GROUP else self._folder / FOLDER_NAME / quote(group, safe="")
            folder.mkdir(parents=True, exist_ok=True)
            fresh = folder / f".{FILE_NAME}.new"
            fresh.write_text("".join(f"{value!r}\n" for value in values), encoding="utf-8")
            fresh.replace(folder / FILE_NAME)
