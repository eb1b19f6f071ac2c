"""The ensembles that the best trial of a sweep of `method: enecg` is measured against, trained as it was.

N: records, E: experts, K: outputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from data.cross_validation import CrossValidation, FoldPlan
from data.dataset import Dataset, LabelSet, Split, Task
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.evaluation.test_result import TestResult
from platform.methods.finished_sweep import FinishedSweep
from platform.models.trained_model import read_trained_model
from platform.search.study import trial_seed
from platform.specs.sections import Objective
from trainables.criterion import with_criteria
from trainables.enecg import EnecgConfig, MixingName
from trainables.enecg_answers import SplitAnswers, answer_split, mean_weights, readable
from trainables.evaluation import Evaluation, assess, predict
from trainables.experts.table import AnyExpertConfig
from trainables.macro_scores import macro_names as class_means
from trainables.macro_scores import macro_scores
from trainables.metrics import macro_names, score
from trainables.trial import State

HEADLINES: Final[Mapping[Task, str]] = {
    "binary": "auroc", "multilabel": "auroc", "multiclass": "accuracy", "regression": "mae"
}  # fmt: skip
ERRORS: Final = ("mae", "mse", "rmse")


class OneRun:
    """`trainables.trial.Trial` of one model outside the search: keeps its reports, and its best epoch's weights."""

    rank, world_size = 0, 1

    def __init__(self, seed: int, device: torch.device, objective: Objective, criteria: Sequence[str]) -> None:
        self.seed, self.device, self._criteria = seed, device, criteria
        self.reports: dict[int, dict[str, float]] = {}
        self.best: State | None = None
        self._metric, self._sign = objective.metric, 1.0 if objective.mode == "max" else -1.0
        self._value = -np.inf

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        self.reports[epoch] = dict(metrics)
        value = self._sign * with_criteria(metrics, self._criteria)[self._metric]
        if self.best is None or value > self._value:
            now = state()
            self._value, self.best = value, deepcopy({"model": now["model"], "thresholds": now["thresholds"]})

    def restore(self) -> State | None:
        return None


@dataclass(frozen=True)
class Run:
    """A trained ensemble, and what it took.

    Attributes:
        model: on features, where trials keep them.
        train_s: of all epochs.
        peak_memory_bytes: of its training's tensors.
    """

    name: str
    config: EnecgConfig
    model: nn.Module
    thresholds_K: np.ndarray[Any, np.dtype[np.float64]]
    train_s: float
    n_trainable: int
    peak_memory_bytes: float


@dataclass(frozen=True)
class Runs:
    """Trains and measures ensembles on the data of a finished sweep."""

    sweep: FinishedSweep

    @cached_property
    def best(self) -> Run:
        """The best trial itself."""
        trial = self.sweep.ranked[0]
        trained = read_trained_model(self.sweep.folder, trial.trial)
        return Run(
            name=f"{trained.config.mixing} (best trial)",
            config=trained.config,
            model=trained.model,
            thresholds_K=trained.card.thresholds_K,
            train_s=sum(report["epoch_s"] for report in trial.reports.values()),
            n_trainable=int(_last(trial.reports)["trainable_parameters"]),
            peak_memory_bytes=_last(trial.reports)["peak_memory_bytes"],
        )

    def train(self, name: str, experts: Sequence[AnyExpertConfig], mixing: MixingName) -> Run:
        """Train an ensemble as the best trial was trained, with other experts or another mixing."""
        method, config = self.sweep.spec.training, self.best.config.variant(experts, mixing)
        run = OneRun(self._seed, self.device, self.objective, self.sweep.spec.criteria)
        start_s = time.perf_counter()
        method.train(config, self._training_data, run)
        train_s = time.perf_counter() - start_s
        assert run.best is not None, "every training reports"
        model = method.build_model(config, self.dataset.signal, self.label_set)
        model.load_state_dict(run.best["model"])
        last = _last(run.reports)
        return Run(
            name=name,
            config=config,
            model=method.finish(model.eval()),
            thresholds_K=np.array(run.best["thresholds"]),
            train_s=train_s,
            n_trainable=int(last["trainable_parameters"]),
            peak_memory_bytes=last["peak_memory_bytes"],
        )

    def evaluate(self, run: Run, split: Split) -> Evaluation:
        """Score a run on a split of the sweep's store, at its thresholds."""
        readable_split = readable(run.model, run.config, split, self.dataset, self.device)
        logits_NK = predict(run.model, readable_split, run.config, self.label_set, self.device)
        return assess(logits_NK, split.labels_NK, run.config, self.label_set, run.thresholds_K)

    def test(self, run: Run, name: str) -> TestResult | None:
        """Test a run: one look at the test fold; None where there is none."""
        trial = self.sweep.ranked[0]
        if run is self.best:
            return self.sweep.test(trial, name)
        beta = run.config.threshold_beta
        return self.sweep.test_model(name, trial.trial, lambda split: (self.evaluate(run, split), beta))

    def tested(self, run: Run, name: str) -> Evaluation:
        """Return a run's answers at its test."""
        kept = np.load(self.sweep.tested_folder(name) / PREDICTIONS_FILE)
        thresholds_K, predicted_NK, labels_NK = kept["thresholds_K"], kept["predicted_NK"], kept["labels_NK"]
        scores = score(predicted_NK, labels_NK, self.label_set, thresholds_K, run.config.threshold_beta)
        return Evaluation(scores, thresholds_K, predicted_NK, labels_NK)

    def answers(self, run: Run, split: Split) -> list[SplitAnswers]:
        """Return what the ensemble and its experts say, for each fold's model."""
        readable_split = readable(run.model, run.config, split, self.dataset, self.device)
        return answer_split(run.model, readable_split, run.config, self.label_set.task, self.device)

    def gate_weights(self, run: Run, split: Split) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return weight_NE of each record's experts."""
        return mean_weights(self.answers(run, split))

    def headline(self, evaluation: Evaluation) -> float:
        """Return the metric that ensembles are compared by, of some answers; NaN where they leave it undefined."""
        scores = {**evaluation.scores.macro, **macro_scores(evaluation, self.label_set)}
        return scores.get(self.headline_metric, math.nan)

    @property
    def headline_metric(self) -> str:
        """What the sweep searches for; the task's own metric, where that is none of a split."""
        name = self.objective.metric.removeprefix("val/")
        known = {*macro_names(self.label_set.task), *class_means(self.label_set.task)}
        return name if name in known else HEADLINES[self.label_set.task]

    @property
    def sign(self) -> float:
        """1 where more of the headline is better, else -1."""
        return -1.0 if self.headline_metric in ERRORS else 1.0

    @property
    def objective(self) -> Objective:
        return self.sweep.spec.search.objectives[0]

    @property
    def label_set(self) -> LabelSet:
        return self.sweep.dataset.label_set

    @property
    def device(self) -> torch.device:
        return torch.device(self.sweep.device)

    @cached_property
    def dataset(self) -> Dataset:
        """The training and validation records."""
        return self.sweep.dataset.open()

    @cached_property
    def _training_data(self) -> Dataset:
        """What trials train on: under `folds`, the folds."""
        spec = self.sweep.spec
        if spec.folds is None:
            return self.dataset
        plan = FoldPlan.of(self.dataset, spec.folds.k, spec.data.seed, spec.data.finetune_label_ratio)
        return CrossValidation(self.sweep.dataset, plan).open()

    @property
    def _seed(self) -> int:
        return trial_seed(self.sweep.spec.seed, self.sweep.ranked[0].number)


def _last(reports: Mapping[int, Mapping[str, float]]) -> Mapping[str, float]:
    return reports[max(reports)]
