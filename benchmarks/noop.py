"""A method that trains nothing: what is left of a trial's time is the platform's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from pydantic import Field
from torch import nn

from data.dataset import Dataset, LabelSet, Signal
from trainables.config import TrainConfig
from trainables.method import Method
from trainables.trial import State, Trial

N_REPORTS: Final = 5
METRIC: Final = "val/auroc"
SPEC: Final = """\
name: {name}
method: noop
data: {{store: {store}}}
params: {{x: {{uniform: [0.0, 1.0]}}}}
search: {{metric: val/auroc, mode: max, sampler: {sampler}, scheduler: asha}}
budget: {{trials: {n_trials}, epochs: {epochs}}}
resources: {{concurrency: {n_slots}}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""


class NoopConfig(TrainConfig):
    """The parameters of `method: noop`."""

    x: float = Field(0.5, ge=0, le=1, description="What the last epoch reports.")


def values(x: float) -> Iterator[tuple[int, float]]:
    """Yield (epoch, value) of a trial's reports.

    All trials agree until the last epoch, so that ASHA compares them at its rungs but stops none: each
    sends all its reports. The last value depends on `x`, so that the sampler has something to model.
    """
    for epoch in range(1, N_REPORTS + 1):
        yield epoch, 0.5 + 0.05 * epoch if epoch < N_REPORTS else 0.75 + 0.2 * x


def build_model(config: NoopConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the smallest model that can be saved and exported, ecg_BLT -> logits_BK."""
    return nn.Sequential(nn.Flatten(), nn.Linear(len(signal.lead_names) * signal.n_timesteps, label_set.n_outputs))


def train(config: NoopConfig, dataset: Dataset, trial: Trial) -> None:
    """Report `N_REPORTS` times, each with a checkpoint."""
    torch.manual_seed(trial.seed)
    model = build_model(config, dataset.signal, dataset.label_set)

    def state() -> State:
        return {"model": model.state_dict(), "thresholds": [0.5] * dataset.label_set.n_outputs}

    for epoch, value in values(config.x):
        trial.report(epoch, {METRIC: value}, state)


NOOP = Method("noop", NoopConfig, build_model, train, lambda task: frozenset({METRIC}))
