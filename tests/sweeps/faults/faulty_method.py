"""A method without training, whose trials meet a fault of the machine once, at an epoch that their parameters name."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from data.dataset import Dataset
from tests.sweeps.scripted_method import ScriptedConfig, build_model, reports
from trainables.method import Method
from trainables.trial import Trial
from trainables.tune_trial import LAST_FILE


class FaultyConfig(ScriptedConfig):
    """What hits a trial, and when."""

    machine: Literal["none", "killed", "cut", "hang", "memory", "nan", "raise", "full"] = Field(
        "none", description="The fault."
    )
    at: int = Field(2, ge=1, description="The epoch.")
    marks: str = Field("", description="Folder in which a trial notes that it was hit: it is hit once.")


def train(config: FaultyConfig, dataset: Dataset, trial: Trial) -> None:
    torch.manual_seed(trial.seed)
    model = build_model(config, dataset.signal, dataset.label_set)
    thresholds = [0.5] * dataset.label_set.n_outputs
    state = trial.restore()
    assert config.epochs is not None
    for epoch in range((state["epoch"] if state else 0) + 1, config.epochs + 1):
        time.sleep(config.epoch_s)
        is_hit = epoch == config.at and _first_time(config, trial)
        metrics = {"val/auroc": float("nan") if is_hit and config.machine == "nan" else 0.5 + epoch / 100}
        if is_hit and config.machine not in ("cut", "full", "nan"):
            _hit(config.machine)
        now = epoch
        payload = lambda: {"model": model.state_dict(), "epoch": now, "thresholds": thresholds}  # noqa: B023, E731
        with _full_disk(is_hit and config.machine == "full"):
            trial.report(epoch, metrics, payload)
        if is_hit and config.machine == "cut":
            _cut(trial)


def _first_time(config: FaultyConfig, trial: Trial) -> bool:
    if trial.rank != 0 or config.machine == "none":
        return False
    mark = Path(config.marks) / str(trial.seed)
    if mark.exists():
        return False
    mark.touch()
    return True


def _hit(machine: str) -> None:
    if machine == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if machine == "hang":
        time.sleep(3600)
    if machine == "memory":
        torch.empty(2**50)  # 4 PiB: no machine has it
    if machine == "raise":
        raise RuntimeError("the lead fell off")


def _cut(trial: Any) -> None:
    """Tear the checkpoint that was just written, and lose the process, as a machine does that loses its power."""
    path = trial.folder / LAST_FILE
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def _full_disk(is_full: bool) -> Iterator[None]:
    """Let no file of this process grow past 200 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if is_full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAULTY = Method("faulty", FaultyConfig, build_model, train, reports)
