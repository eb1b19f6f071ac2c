"""What a sweep of AdaGrad-Fusion leaves beside every sweep's files: the best trial's test as its users know it.

`result/<data set>.npy` is the original's: an object array of one dict, with its keys. `<data set>.json` and `.csv` say
the same in the open.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.dataset import LabelSet
from data.snomed import scoring_weights
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.models.trained_model import BEST_FOLDER
from platform.pages.page import Cell, Table
from trainables.checkpoint import write_whole
from trainables.multilabel_scores import (
    Flags,
    Floats,
    MultilabelScores,
    challenge_score,
    macro,
    score_multilabel,
)

SCORED_LABEL_SETS = ("scored", "adagrad_fusion")  # whose labels are classes of the Challenge 2021


@dataclass(frozen=True)
class HeldOutScores:
    """A model's answers on the test fold, scored at the thresholds of validation.

    Attributes:
        challenge: the score of the Challenge 2021; None for labels that are not its classes.
    """

    label_set: LabelSet
    scores: MultilabelScores
    thresholds_K: Floats
    n_positive_K: NDArray[np.int64]
    challenge: float | None

    @staticmethod
    def of(
        label_set: LabelSet, probability_NK: Floats, labels_NK: NDArray[np.float32], thresholds_K: Floats
    ) -> HeldOutScores:
        """Score the answers of a binary or multilabel model."""
        truth_NK = labels_NK > 0.5
        scores = score_multilabel(probability_NK, truth_NK, thresholds_K)
        challenge = _challenge(label_set, probability_NK >= thresholds_K, truth_NK)
        return HeldOutScores(label_set, scores, thresholds_K, truth_NK.sum(axis=0), challenge)

    def macro(self) -> dict[str, float]:
        """Return the scores of the whole; those that no label has are left out."""
        scores = self.scores
        values = {
            "auroc": macro(scores.auroc_K),
            "map": macro(scores.ap_K),
            "f1": macro(scores.f1_K),
            "f_beta": macro(scores.f_beta_K),
            "g_beta": macro(scores.g_beta_K),
            "ranking_loss": scores.ranking_loss,
            "coverage_error": scores.coverage_error,
            "hamming_loss": scores.hamming_loss,
            "subset_accuracy": scores.subset_accuracy,
            "loss": scores.loss,
        }
        if self.challenge is not None:
            values["challenge_score"] = self.challenge
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def per_label(self) -> pd.DataFrame:
        """Return a row a label; empty cells where the records tell nothing of it."""
        scores = self.scores
        columns = {
            "label": self.label_set.names,
            "n_positive": self.n_positive_K,
            "auroc": scores.auroc_K,
            "ap": scores.ap_K,
            "f1": scores.f1_K,
            "f_beta": scores.f_beta_K,
            "g_beta": scores.g_beta_K,
            "threshold": self.thresholds_K,
        }
        return pd.DataFrame(columns)

    def original(self) -> dict[str, Any]:
        """Return the original's dict: its keys, average precision in percent, everything else as shares."""
        scores = self.scores
        return {
            "auc_roc_macro": macro(scores.auroc_K),
            "auc_roc_macro_class": scores.auroc_K,
            "ranking": scores.ranking_loss,
            "Coverage": scores.coverage_error,
            "Map_value": 100 * macro(scores.ap_K),
            "map_class": 100 * scores.ap_K,
            "hamming": scores.hamming_loss,
            "acc": scores.subset_accuracy,
            "F1score_b": macro(scores.f_beta_K),
            "Gscore_b": macro(scores.g_beta_K),
            "F1score_b_class": scores.f_beta_K.tolist(),
            "Gscore_b_class": scores.g_beta_K.tolist(),
            "F1score": macro(scores.f1_K),
            "F1score_class": scores.f1_K.tolist(),
            "yloss": scores.loss,
            "threshold": self.thresholds_K,
        }


def conclude(sweep: FinishedSweep) -> Findings:
    """Score the best trial's test, and write it into `result/`."""
    label_set = sweep.dataset.label_set
    if label_set.task not in ("binary", "multilabel"):
        return Findings(notes=[f"result/ is left out: its scores are of yes/no labels, and these are {label_set.task}"])
    if sweep.held_out is None:
        return Findings(notes=["result/ is left out: there is no test fold"])
    answers = np.load(sweep.folder / BEST_FOLDER / PREDICTIONS_FILE)
    test = HeldOutScores.of(label_set, answers["predicted_NK"], answers["labels_NK"], answers["thresholds_K"])
    name = Path(sweep.spec.data.store).name
    write_scores(test, sweep.result, name)
    return Findings(lines=_lines(test, f"{sweep.folder.name}/result/{name}.npy"), tables=[_table(test)])


def write_scores(test: HeldOutScores, folder: Path, name: str) -> None:
    """Write `<name>.npy` for the original's scripts, `<name>.json` and `<name>.csv`."""
    text = json.dumps({"labels": test.label_set.name, "test": test.macro()}, indent=2, allow_nan=False) + "\n"
    write_whole(folder / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))
    write_whole(folder / f"{name}.csv", lambda path: test.per_label().to_csv(path, index=False))
    write_whole(folder / f"{name}.npy", lambda path: _save_original(path, test))


def _save_original(path: Path, test: HeldOutScores) -> None:
    with path.open("wb") as file:  # of a path np.save would change the name
        np.save(file, np.array([test.original()], dtype=object), allow_pickle=True)


def _challenge(label_set: LabelSet, called_NK: Flags, truth_NK: Flags) -> float | None:
    """Return the Challenge's score; of labels that are one class there, one is enough."""
    weights = scoring_weights()
    columns = weights.columns(label_set.names) if label_set.name in SCORED_LABEL_SETS else None
    if columns is None:
        return None
    called_NC, truth_NC = (_merge(flags_NK, columns, len(weights.names)) for flags_NK in (called_NK, truth_NK))
    return challenge_score(called_NC, truth_NC, weights.weights_CC, weights.normal)


def _merge(flags_NK: Flags, columns: Sequence[int], n_classes: int) -> Flags:
    merged_NC = np.zeros((len(flags_NK), n_classes), np.bool_)
    for k, column in enumerate(columns):
        merged_NC[:, column] |= flags_NK[:, k]
    return merged_NC


def _lines(test: HeldOutScores, file: str) -> list[str]:
    shown = ", ".join(
        f"{name} {test.macro()[name]:.4f}" for name in ("f_beta", "g_beta", "challenge_score") if name in test.macro()
    )
    return [f"test at validation's thresholds: {shown} ({file})"]


def _table(test: HeldOutScores) -> Table:
    caption = (
        "the best trial at thresholds fitted on validation; F-beta and G-beta with beta 2, means over the labels that "
        "some but not all test records have"
    )
    rows = [[Cell(name), Cell(f"{value:.4f}", value)] for name, value in test.macro().items()]
    return Table("Test scores of AdaGrad-Fusion", caption, ("score", "test"), rows)
