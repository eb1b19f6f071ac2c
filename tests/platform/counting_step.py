"""A data step for tests: writes numbered files, a file at a time, and counts how often it was at work."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

from pydantic import BaseModel, ConfigDict, Field

from data.config import DataConfig
from trainables.data_step import DataStep, StepResult, StepRun


class CountingConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    n_files: int = Field(3, ge=1, description="Files to write.")
    source: str | None = Field(None, description="A file whose size is written into every file.")
    file_s: float = Field(0.0, ge=0, description="How long a file takes.")
    fault: bool = Field(False, description="Whether it goes wrong.")


def run(config: CountingConfig, data: DataConfig, run: StepRun) -> StepResult:
    labels = run.folder / "labels"
    labels.mkdir(exist_ok=True)
    size = 0 if config.source is None else Path(config.source).stat().st_size
    for number in range(config.n_files):
        path = labels / f"{number}.txt"
        if not path.exists():
            sleep(config.file_s)
            path.write_text(f"{size} {run.seed} {os.getpid()}")
        run.progress(number + 1, config.n_files)
    if config.fault:
        raise RuntimeError("the counter is broken")
    return StepResult({"labels": labels}, {"total": float(config.n_files)})


COUNTING = DataStep("counting", CountingConfig, ("labels",), frozenset({"total"}), run)
