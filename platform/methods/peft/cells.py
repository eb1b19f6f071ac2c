"""The cells of the table backbone x method of a sweep of `method: peft`: the best trial of each, tested.

N: records, K: labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data.dataset import LabelSet
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.methods.finished_sweep import FinishedSweep
from platform.models.trained_model import TRIALS_FOLDER
from platform.search.study import spawn_seed
from platform.sweeps.checkpoints import best_of_cells
from platform.sweeps.journal import TrialRecord
from platform.sweeps.leaderboard import best_epoch
from trainables.backbones.architecture import architecture_of, build_network
from trainables.backbones.classifier import BackboneClassifier
from trainables.bootstrap import percentile_interval, resample
from trainables.evaluation import Evaluation
from trainables.metrics import score
from trainables.paired_bootstrap import Difference, paired_difference
from trainables.peft_method import PEFT, PeftConfig, build_model, resolve_width
from trainables.tune_trial import BEST_FILE

ACCURACY, AUROC = "accuracy", "AUROC"


class Number(NamedTuple):
    """A metric, with its 95 % interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{interval}"


@dataclass(frozen=True)
class Trained:
    """Parameters that are trained, of all layers that have alike ones."""

    place: str
    n_parameters: int


@dataclass(frozen=True)
class Cell:
    """The best trial of one backbone, method and normalisation.

    Attributes:
        config: with its width resolved, where a parameter budget has picked it.
        numbers: on the test fold, or on validation where there is none.
        trained: what is trained, read off the built model.
        epoch_s: mean over the trial's epochs.
        saved_bytes: of the trial's checkpoint: what was trained, and no more.
    """

    name: str
    trial: TrialRecord
    config: PeftConfig
    numbers: Mapping[str, Number]
    trained: tuple[Trained, ...]
    n_trainable: int
    n_parameters: int
    n_tokens: int
    peak_memory_bytes: float
    epoch_s: float
    saved_bytes: int

    @property
    def backbone(self) -> str:
        return f"{self.config.backbone} {self.config.size}"

    @property
    def tuning(self) -> str:
        return self.config.tuning

    @property
    def headline(self) -> str:
        """The metric by which cells are compared: F1, over both classes of a binary task; R2 of a regression."""
        return next(name for name in ("F1 macro", "F1 class 1", "R2", "MAE") if name in self.numbers)

    @property
    def score(self) -> Number:
        """The value of `headline`."""
        return self.numbers[self.headline]


def cell_name(params: Mapping[str, Any]) -> str:
    """Return the cell of a configuration (dotted keys): backbone, size, method, normalisation."""
    return "-".join(str(params[key]) for key in ("backbone", "size", "tuning", "normalisation"))


def test_cells(sweep: FinishedSweep) -> list[Cell]:
    """Test the best trial of every cell: a look at the test fold each; the best cell first."""
    bests = best_of_cells(sweep.ranked, cell_name)
    return [_test_cell(sweep, name, trial) for name, trial in bests.items()]


def best_by_method(cells: Iterable[Cell]) -> list[Cell]:
    """Return the first cell of each backbone and method: the better normalisation, by validation."""
    bests: dict[tuple[str, str], Cell] = {}
    for cell in cells:
        bests.setdefault((cell.backbone, cell.tuning), cell)
    return sorted(bests.values(), key=lambda cell: (cell.backbone, cell.n_trainable))


def _test_cell(sweep: FinishedSweep, name: str, trial: TrialRecord) -> Cell:
    config = resolve_width(PEFT.parse_config(trial.params))
    with torch.device("meta"):
        model = build_model(config, sweep.dataset.signal, sweep.dataset.label_set)
        plain = build_network(architecture_of(config.backbone, config.size))
    layers = frozenset(name for name, _ in plain.named_modules())
    trainable = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    epochs_s = [report["epoch_s"] for report in trial.reports.values()]
    return Cell(
        name=name,
        trial=trial,
        config=config,
        numbers=_numbers(sweep, trial, name, config),
        trained=tuple(trained_parts(model, layers)),
        n_trainable=sum(trainable),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        n_tokens=model.backbone.n_tokens,
        peak_memory_bytes=trial.last["peak_memory_bytes"],
        epoch_s=float(np.mean(epochs_s)),
        saved_bytes=(sweep.folder / TRIALS_FOLDER / trial.trial / BEST_FILE).stat().st_size,
    )


def trained_parts(model: BackboneClassifier, layers: frozenset[str]) -> list[Trained]:
    """Return what of a model is trained, by layer, layers that are alike together, in the order of the model.

    Args:
        layers: names of the modules of the plain network; what is added inside one counts to it.
    """
    if all(parameter.requires_grad for name, parameter in model.named_parameters() if "masked_spec_embed" not in name):
        return [Trained("everything", sum(parameter.numel() for parameter in model.parameters()))]
    parts: dict[str, list[tuple[int, int]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            module = _owner(name.removeprefix("backbone.network."), layers)
            layer = re.search(r"layers\.(\d+)\b", module)
            place = re.sub(r"layers\.\d+\b", "layers.{}", module)
            parts.setdefault(place, []).append((int(layer[1]) if layer else -1, parameter.numel()))
    return [
        Trained(place.replace("{}", _span([layer for layer, _ in found])), sum(size for _, size in found))
        for place, found in parts.items()
    ]


def _owner(name: str, layers: frozenset[str]) -> str:
    """Return the innermost layer of the plain network that a parameter lies in; its own module's name elsewhere."""
    module = name.rpartition(".")[0]
    while module and module not in layers:
        module = module.rpartition(".")[0]
    return module or name.rpartition(".")[0]


def _span(layers: list[int]) -> str:
    first, last = min(layers), max(layers)
    return str(first) if first == last else f"{{{first}-{last}}}"


# ------------------------------------------------------------------ metrics


def _numbers(sweep: FinishedSweep, trial: TrialRecord, name: str, config: PeftConfig) -> dict[str, Number]:
    test = sweep.test(trial, name)
    if test is None:
        objective = sweep.spec.search.objectives[0]
        epoch = best_epoch(trial, objective.metric, objective.mode)
        assert epoch is not None, "a ranked trial has reported"
        report = trial.reports[epoch]
        found = {key.removeprefix("val/"): Number(value) for key, value in report.items() if key.startswith("val/")}
        return _named(found, sweep.dataset.label_set)
    found = {key: Number(value, *test.intervals.get(key, ())) for key, value in test.metrics.items()}
    numbers = _named(found, sweep.dataset.label_set)
    if sweep.dataset.label_set.task == "binary":
        seed = spawn_seed(sweep.spec.seed, 0, 3)  # the resamples of `HeldOut`
        kept = sweep.tested_folder(name) / PREDICTIONS_FILE
        numbers |= macro_numbers(kept, sweep.dataset.label_set, config.threshold_beta, seed)
    return numbers


def _named(found: Mapping[str, Number], label_set: LabelSet) -> dict[str, Number]:
    """Return the metrics of the assignment under the names of its table."""
    suffix = "class 1" if label_set.task == "binary" else "macro"
    names = {
        "accuracy": ACCURACY,
        "precision": f"precision {suffix}",
        "recall": f"recall {suffix}",
        "f1": f"F1 {suffix}",
        "auroc": AUROC,
        "mae": "MAE",
        "rmse": "RMSE",
        "r2": "R2",
    }
    return {shown: found[name] for name, shown in names.items() if name in found}


def macro_numbers(predictions: Path, label_set: LabelSet, beta: float, seed: int) -> dict[str, Number]:
    """Return precision, recall and F1 over both classes of a binary task, from predictions that a test has kept."""
    scores, resampled = _both_classes_resampled(predictions, label_set, beta, seed)
    return {
        f"{shown} macro": Number(scores[metric], *(percentile_interval(resampled[metric]) or ()))
        for metric, shown in (("precision", "precision"), ("recall", "recall"), ("f1", "F1"))
    }


def _both_classes_resampled(
    predictions: Path, label_set: LabelSet, beta: float, seed: int
) -> tuple[Mapping[str, float], Mapping[str, NDArray[np.float64]]]:
    """Return the macro metrics over both classes, and those of the bootstrap's resamples."""
    kept = np.load(predictions)
    evaluation, names = both_classes(kept["predicted_NK"], kept["labels_NK"], kept["thresholds_K"], label_set, beta)
    return evaluation.scores.macro, resample(evaluation, names, beta, kept["patient_ids"], seed).macro


def both_classes(
    predicted_N1: NDArray[np.float64],
    labels_N1: NDArray[np.float32],
    thresholds_1: NDArray[np.float64],
    label_set: LabelSet,
    beta: float,
) -> tuple[Evaluation, LabelSet]:
    """Return a binary task's answers as those of two labels: a record that is not called 1 is called 0."""
    names = LabelSet(label_set.name, "multilabel", (f"not {label_set.names[0]}", label_set.names[0]))
    predicted_N2 = np.concatenate([-predicted_N1, predicted_N1], axis=1)
    labels_N2 = np.concatenate([1 - labels_N1, labels_N1], axis=1)
    # below the threshold, and not at it
    thresholds_2 = np.concatenate([np.nextafter(-thresholds_1, np.inf), thresholds_1])
    scores = score(predicted_N2, labels_N2, names, thresholds_2, beta)
    return Evaluation(scores, thresholds_2, predicted_N2, labels_N2), names


def compared(sweep: FinishedSweep, first: Cell, other: Cell) -> Difference | None:
    """Return F1 of `other` - `first` on the test fold, paired record by record; over both classes of a binary task.

    None without a test fold, or where F1 says nothing of the labels.
    """
    if sweep.held_out is None:
        return None
    folders, beta = (sweep.tested_folder(first.name), sweep.tested_folder(other.name)), first.config.threshold_beta
    if sweep.dataset.label_set.task != "binary":
        return sweep.held_out.difference(folders[0], folders[1], "f1", beta)
    seed = spawn_seed(sweep.spec.seed, 0, 3)
    (scores, resampled), (other_scores, other_resampled) = (
        _both_classes_resampled(folder / PREDICTIONS_FILE, sweep.dataset.label_set, beta, seed) for folder in folders
    )
    return paired_difference(other_scores["f1"] - scores["f1"], resampled["f1"], other_resampled["f1"])
