"""The repeats of a sweep: the best configuration again with other seeds, once the search has ended.

They are journalled and resumed as trials are, but are no part of the study: nothing proposes, ranks or stops them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from platform.search.study import spawn_seed
from platform.search.trial_lives import TrialLives
from platform.specs.spec import Spec
from platform.sweeps.journal import ENDED, Event, Journal, SweepRecord, TrialRecord
from trainables.decisions import Verdict


class Repeats(TrialLives):
    """Trains `best` with `repeats.seeds` other seeds, each up to the last epoch of its configuration.

    Args:
        shortage: says what the disk lacks for one more trial, in one line; empty where there is room.
    """

    def __init__(
        self,
        spec: Spec,
        journal: Journal,
        record: SweepRecord,
        best: TrialRecord,
        post: Callable[[str, int, Verdict], None],
        observers: Sequence[Callable[[Event], None]] = (),
        shortage: Callable[[], str] = str,
    ) -> None:
        super().__init__(spec, journal, record, post, observers)
        assert spec.repeats is not None
        self._best, self._shortage = best, shortage
        numbers = range(1, spec.repeats.seeds + 1)
        self._waiting = [number for number in numbers if self._is_open(repeat_name(best.trial, number))]
        self.failure = ""  # why the rest can't be trained

    @property
    def is_done(self) -> bool:
        return not self._waiting

    def _go_on_later(self, trial: str) -> None:
        self._waiting.append(self.record.repeats[trial].number)

    def propose(self) -> dict[str, Any] | None:
        """Return the next repeat's task, or None where there is no further."""
        if self._interrupted or self.is_done:
            return None
        number = self._waiting[0]
        name = repeat_name(self._best.trial, number)
        if name not in self.record.repeats:
            self.failure = self._shortage()
            if self.failure:
                return None
            body = {"of": self._best.trial, "number": number, "seed": self._seed(number)}
            self._write("repeat", name, **body, params=self._best.params, static=self._best.static)
        self._waiting.pop(0)
        repeat = self.record.repeats[name]
        return {"trial": name, "seed": repeat.seed, "params": repeat.params, "epochs_reported": repeat.epochs}

    def _is_open(self, name: str) -> bool:
        return name not in self.record.repeats or self.record.repeats[name].state not in ENDED

    def _seed(self, number: int) -> int:
        # A key longer than that of the trial's own seed: no repeat draws the trial's numbers again.
        return spawn_seed(self.spec.seed, self._best.number, 1, number)

    def _on_report(self, trial: str, epoch: int, metrics: dict[str, float]) -> None:
        self._write("reported", trial, epoch=epoch, metrics=metrics)
        is_last = epoch >= self.record.repeats[trial].params["epochs"]
        self._post(trial, epoch, "interrupt" if self._interrupted and not is_last else "continue")

    def _end(self, trial: str, state: str, error: str = "") -> None:
        if state != "FAILED" and not self.record.repeats[trial].reports:
            state, error = "FAILED", "the repeat ended without a report"
        self._write("ended", trial, state=state, error=error, constraints={})


def repeat_name(trial: str, number: int) -> str:
    """Return the id of a trial's repeat: t0007-r1 and so on."""
    return f"{trial}-r{number}"


def print_repeat(record: SweepRecord, metric: str, mode: Literal["max", "min"], event: Event) -> None:
    """Print a line where a repeat has ended; the live view shows the search alone."""
    if event.kind != "ended" or event.trial not in record.repeats:
        return
    repeat = record.repeats[event.trial]
    last = repeat.error.strip().splitlines()[-1:] or [f"{metric} {repeat.best(metric, mode == 'max'):.4f}"]
    print(f"{repeat.trial} {repeat.state} after {repeat.epochs} epochs: {last[0]}")
