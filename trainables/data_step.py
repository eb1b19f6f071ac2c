"""What a data step is to a chain: work on data that trains nothing by itself, and leaves files for later stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.config import DataConfig


class StepStopped(Exception):  # noqa: N818  (an end that is asked for, not an error)
    """Raised by `StepRun.progress` after Ctrl-C; a step lets it pass, and goes on from its folder when resumed."""


class StepRun(Protocol):
    """One run of a step with one configuration: the only door from it to the outside."""

    @property
    def folder(self) -> Path:
        """The run's own folder; it is there, and holds what an earlier process of the same run has written."""

    @property
    def seed(self) -> int: ...

    def progress(self, done: int, total: int) -> None:
        """Say how far the step is, in whatever it counts; call it between pieces of work.

        Raises:
            StepStopped: the chain is to end.
        """


@dataclass(frozen=True)
class StepResult:
    """What a run of a step leaves.

    Attributes:
        artefacts: a file or folder in the run's folder for every name that the step declares.
        measures: numbers of the run, such as a clustering's quality; all that the step declares.
    """

    artefacts: Mapping[str, Path]
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataStep:
    """One row of `trainables.data_steps.DATA_STEPS`.

    Attributes:
        config: a frozen pydantic model; its fields are the parameters that a stage may give, or search.
        artefacts: names of what it leaves; later stages take them as `{from: STAGE.NAME}`.
        measures: names of the numbers that every run has; a stage that searches selects by one of them.
        run: (config, data, run) -> result. Runs in the driver, with Ray up, so that it may use Ray Data. It is called
            again with the same folder after a kill, and goes on from what is there. Files that it writes whole
            (`trainables.checkpoint.write_whole`) are never seen in part.
    """

    name: str
    config: type[Any]
    artefacts: tuple[str, ...]
    measures: frozenset[str]
    run: Callable[[Any, DataConfig, StepRun], StepResult]
