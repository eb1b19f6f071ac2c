"""Any method as a cross-validation: a trial trains k models, one a fold, and speaks of them as of one.

The models advance together: each trains one epoch, then the trial reports their mean. So a scheduler stops, a
checkpoint saves and a resume takes up all of them at one epoch. It rests on what every method keeps to: a trial that
is restored after an epoch goes on as if it had not stopped.

F: folds, B: records of a batch, K: outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.cross_validation import FoldedDataset
from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.fold_metrics import fold_metric
from trainables.method import Method
from trainables.methods import METHODS
from trainables.seeds import Use, derive_seed
from trainables.trial import State, Trial, TrialStopped

SUMMED: Final = frozenset({"epoch_s", "parameters", "trainable_parameters"})
LARGEST: Final = frozenset({"peak_memory_bytes", "process_peak_bytes"})


def training_method(name: str, n_folds: int | None = None) -> Method:
    """Return the method as trials run it: itself, or with `n_folds` its cross-validation."""
    return METHODS[name] if n_folds is None else cross_validated(METHODS[name], n_folds)


def cross_validated(method: Method, n_folds: int) -> Method:
    """Return a method that trains a fresh model of `method` a fold, on a `data.cross_validation.FoldedDataset`.

    What it reports is the mean over the folds (time and parameters are summed, memory is the largest), and each fold's
    own number as `fold2/val/auroc`. Its model is the mean of the k models' probabilities, or values; its thresholds
    are the mean of theirs.
    """
    return replace(
        method,
        build_model=partial(_build_model, method.build_model, n_folds),
        train=partial(_train, method.train),
        finish=partial(_finish, method.finish),
        onnx_parts=partial(_onnx_parts, method.onnx_parts),
    )


class MeanModel(nn.Module):
    """The mean of what several models answer, as logits: ecg_BLT -> logits_BK.

    Classes and labels: the mean of probabilities; regression: the mean of values.
    """

    def __init__(self, models: Iterable[nn.Module], task: Task) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._task = task

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return mean_logits(torch.stack([model(ecg_BLT) for model in self.models]), self._task)


def mean_logits(logits_FBK: Tensor, task: Task) -> Tensor:
    """Return the logits whose probabilities are the mean of the given ones; of a regression the mean of the values."""
    if task == "regression":
        return logits_FBK.mean(dim=0)
    if task == "multiclass":
        # The log of the sum: of the mean, but for a constant that cancels out in the softmax.
        return torch.logsumexp(torch.log_softmax(logits_FBK, dim=2), dim=0)
    # logit(mean p) = log(mean p) - log(mean (1 - p)), without ever rounding p to 1; -softplus(-x) is log p
    positive_BK = torch.logsumexp(-functional.softplus(-logits_FBK), dim=0)
    negative_BK = torch.logsumexp(-functional.softplus(logits_FBK), dim=0)
    return positive_BK - negative_BK


def _build_model(
    build: Callable[[Any, Signal, LabelSet], nn.Module], n_folds: int, config: Any, signal: Signal, label_set: LabelSet
) -> nn.Module:
    return MeanModel((build(config, signal, label_set) for _ in range(n_folds)), label_set.task)


def _finish(finish: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    assert isinstance(model, MeanModel)
    model.models = nn.ModuleList(finish(each) for each in model.models)
    return model


def _onnx_parts(
    parts: Callable[[nn.Module, Signal], Sequence[tuple[nn.Module, Signal]]], model: nn.Module, signal: Signal
) -> Sequence[tuple[nn.Module, Signal]]:
    assert isinstance(model, MeanModel)
    return [part for each in model.models for part in parts(each, signal)]


def _train(train: Callable[[Any, Dataset, Trial], None], config: Any, dataset: Dataset, trial: Trial) -> None:
    """Train the models of all folds, epoch by epoch, until none has a further epoch."""
    assert isinstance(dataset, FoldedDataset), "the sweep prepares the folds"
    assert trial.world_size == 1, "the spec refuses worker groups"
    runs = [
        _FoldRun(trial.device, derive_seed(Use.FOLD, trial.seed, fold), part)
        for fold, part in enumerate(dataset.folds, start=1)
    ]
    _restore(runs, trial.restore())
    while _advance(runs, train, config):
        epoch = max(run.epoch for run in runs)
        trial.report(epoch, _merged([run.metrics for run in runs]), partial(_state, runs))


@dataclass
class _FoldRun:
    """One fold's model between two epochs: to its method a trial that is stopped after every report."""

    device: torch.device
    seed: int
    dataset: Dataset
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    rank: int = 0
    world_size: int = 1
    saved: State | None = None
    has_ended: bool = False
    peaks: dict[str, float] = field(default_factory=dict)

    def advance(self, train: Callable[[Any, Dataset, Trial], None], config: Any) -> bool:
        """Train one epoch more; return False where there is none."""
        if not self.has_ended:
            try:
                train(config, self.dataset, self)
            except TrialStopped:
                return True
            self.has_ended = True
        return False

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        self.peaks |= {name: max(self.peaks.get(name, 0.0), metrics[name]) for name in LARGEST & metrics.keys()}
        self.epoch, self.metrics, self.saved = epoch, {**metrics, **self.peaks}, state()
        raise TrialStopped

    def restore(self) -> State | None:
        return self.saved

    def to_state(self) -> State:
        return {
            "epoch": self.epoch,
            "metrics": self.metrics,
            "saved": self.saved,
            "has_ended": self.has_ended,
            "peaks": self.peaks,
        }


def _advance(runs: Sequence[_FoldRun], train: Callable[[Any, Dataset, Trial], None], config: Any) -> bool:
    """Train one epoch more of every fold that has one; return False where none has. An ended fold's numbers stand."""
    advanced = [run.advance(train, config) for run in runs]
    return any(advanced)


def _restore(runs: Sequence[_FoldRun], state: State | None) -> None:
    if state is None:
        return
    for run, values in zip(runs, state["folds"], strict=True):
        for name, value in values.items():
            setattr(run, name, value)


def _state(runs: Sequence[_FoldRun]) -> State:
    saved = [run.saved for run in runs if run.saved is not None]
    assert len(saved) == len(runs), "every fold has trained an epoch before the first report"
    weights = {
        f"models.{index}.{name}": tensor for index, each in enumerate(saved) for name, tensor in each["model"].items()
    }
    thresholds = [sum(each) / len(saved) for each in zip(*(each["thresholds"] for each in saved), strict=True)]
    return {"model": weights, "thresholds": thresholds, "folds": [run.to_state() for run in runs]}


def _merged(metrics_F: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the folds' common numbers merged, and each fold's own."""
    common = [name for name in metrics_F[0] if all(name in metrics for metrics in metrics_F)]
    merged = {name: _merge(name, [metrics[name] for metrics in metrics_F]) for name in common}
    own = {
        fold_metric(fold, name): value
        for fold, metrics in enumerate(metrics_F, start=1)
        for name, value in metrics.items()
    }
    return {**merged, **own}


def _merge(name: str, values: Sequence[float]) -> float:
    if name in LARGEST:
        return max(values)
    return sum(values) if name in SUMMED else sum(values) / len(values)
