"""Tells who wants to know of every new best trial of a sweep, as the trials end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from platform.models.trained_model import TrainedModel, read_trained_model
from platform.sweeps.checkpoints import rank
from platform.sweeps.journal import Event, SweepRecord
from platform.sweeps.study_db import Objectives


class Incumbents:
    """An observer of a study's events.

    Args:
        folder: the sweep's.
        tell: called with the sweep's folder and the new best trial's model, whose checkpoint is there.
    """

    def __init__(
        self, folder: Path, record: SweepRecord, objectives: Objectives, tell: Callable[[Path, TrainedModel], object]
    ) -> None:
        self._folder, self._record, self._objectives, self._tell = folder, record, objectives, tell
        self._current = ""

    def on_event(self, event: Event) -> None:
        if event.kind != "ended":
            return
        ranked = rank(self._record, self._objectives)
        if ranked and ranked[0].trial != self._current:
            self._current = ranked[0].trial
            self._tell(self._folder, read_trained_model(self._folder, self._current))
