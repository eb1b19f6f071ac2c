"""A method without training: its trials report, fail, hang or die as their parameters say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.config import TrainConfig
from trainables.method import Method
from trainables.trial import Trial


class ScriptedConfig(TrainConfig):
    """What a trial does."""

    score: float = Field(0.5, description="val/auroc of every epoch.")
    size: int = Field(1, ge=1, description="Width of a layer that does nothing: more parameters.")
    epoch_s: float = Field(0.0, ge=0, description="How long an epoch takes.")
    fault: Literal["none", "raise", "nan", "kill", "hang", "memory", "unbuildable"] = Field(
        "none", description="What goes wrong."
    )


class ScriptedModel(nn.Module):
    """Answers with a linear function of the leads' means; `size` adds parameters that count for nothing."""

    def __init__(self, n_leads: int, n_outputs: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_leads, n_outputs)
        self.wide = nn.Linear(n_outputs, size)
        self.back = nn.Linear(size, n_outputs)

    def forward(self, ecg_BLT: torch.Tensor) -> torch.Tensor:
        logits_BK: torch.Tensor = self.linear(ecg_BLT.mean(dim=2))
        unchanged_BK: torch.Tensor = logits_BK + 0 * self.back(self.wide(logits_BK))
        return unchanged_BK


def build_model(config: ScriptedConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    if config.fault == "unbuildable":
        raise ValueError("no such model can be built")
    return ScriptedModel(len(signal.lead_names), label_set.n_outputs, config.size)


def train(config: ScriptedConfig, dataset: Dataset, trial: Trial) -> None:
    torch.manual_seed(trial.seed)
    model = build_model(config, dataset.signal, dataset.label_set)
    thresholds = [0.5] * dataset.label_set.n_outputs
    state = trial.restore()
    assert config.epochs is not None
    for epoch in range((state["epoch"] if state else 0) + 1, config.epochs + 1):
        time.sleep(config.epoch_s)
        _go_wrong(config.fault, epoch)
        score = float("nan") if config.fault == "nan" else config.score
        now = epoch
        metrics = {"val/auroc": score, "val/cost": config.score * config.size}
        trial.report(epoch, metrics, lambda: {"model": model.state_dict(), "epoch": now, "thresholds": thresholds})  # noqa: B023


def _go_wrong(fault: str, epoch: int) -> None:
    if fault == "raise" and epoch == 2:
        raise RuntimeError("the lead fell off")
    if fault == "memory":
        torch.empty(2**50)  # 4 PiB: no machine has it
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(3600)


def reports(task: Task) -> frozenset[str]:
    return frozenset({"val/auroc", "val/cost"})


SCRIPTED = Method("scripted", ScriptedConfig, build_model, train, reports)


def grid(**values: Sequence[object]) -> dict[str, object]:
    """Return `params` that try every combination of `values` in order."""
    return {name: {"choice": list(choices)} for name, choices in values.items()}
