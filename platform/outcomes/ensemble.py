"""The ensemble of a sweep: chosen among its kept checkpoints on validation, tested once, and left as one ONNX file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data.dataset import LabelSet, Split
from platform.evaluation.held_out import PREDICTIONS_FILE, HeldOut
from platform.evaluation.test_result import TestResult
from platform.models.ensemble_card import ENSEMBLE_FOLDER, ONNX_FILE, EnsembleCard, read_ensemble_card
from platform.models.trained_model import BEST_FOLDER, CARD_NAME, TRIALS_FOLDER, TrainedModel, read_trained_model
from platform.outcomes.ensemble_result import EnsembleResult
from platform.specs.sections import EnsembleSpec, Objective
from platform.sweeps.journal import SweepRecord, TrialRecord
from trainables.checkpoint import write_whole
from trainables.ensemble import Selection, mean_prediction, select_members
from trainables.ensemble_onnx import cost, fits_one_file, serialise_ensemble, write_ensemble
from trainables.evaluation import Evaluation, evaluate
from trainables.metrics import Floats, score
from trainables.paired_bootstrap import Difference
from trainables.predictor import Predictor
from trainables.thresholds import fit_thresholds
from trainables.tune_trial import BEST_FILE


def find_candidates(run: Path, ranked: list[TrialRecord], spec: EnsembleSpec) -> tuple[str, ...]:
    """Return the best trials of a sweep that still have their checkpoint, best first."""
    kept = [trial.trial for trial in ranked if (run / TRIALS_FOLDER / trial.trial / BEST_FILE).exists()]
    return tuple(kept[: spec.top])


@dataclass(frozen=True)
class SweepEnsemble:
    """Builds the ensemble of a sweep. Members are loaded one at a time, but for the export.

    Attributes:
        run: the sweep's folder.
        candidates: trials, best first.
        objective: the members are chosen by it: a metric of the validation folds.
        device: where the members answer.
    """

    run: Path
    candidates: tuple[str, ...]
    objective: Objective
    label_set: LabelSet
    device: str

    def conclude(
        self, val: Split, held_out: HeldOut | None, record: SweepRecord, best: TestResult | None
    ) -> EnsembleResult:
        """Choose the members, write `ensemble/`, and look at the test fold once.

        What an earlier process has chosen among the same candidates is kept, and not tested again. Where the best trial
        alone is chosen, its own test is the ensemble's.

        Args:
            held_out: None where there is no test fold.
            best: the best trial's test.

        Raises:
            ArithmeticError: the ONNX file does not answer as PyTorch does.
        """
        self.folder.mkdir(exist_ok=True)
        card = self._known() or self._build(val)
        if held_out is None or best is None or card.is_best_alone:
            return EnsembleResult(card, best, best)
        tested = self._earlier_look(record, card) or self._look(held_out, card)
        difference = Difference(**tested["difference"]) if tested["difference"] else None
        return EnsembleResult(card, best, held_out.result(self.folder, tested), difference)

    @property
    def folder(self) -> Path:
        return self.run / ENSEMBLE_FOLDER

    @property
    def metric(self) -> str:
        """The objective's name among the metrics of a split."""
        return self.objective.metric.removeprefix("val/")

    @cached_property
    def _best(self) -> TrainedModel:
        """The best trial, by whose rules thresholds are fitted and f_beta is counted."""
        return read_trained_model(self.run, self.candidates[0])

    def _known(self) -> EnsembleCard | None:
        card = read_ensemble_card(self.folder)
        same = card is not None and (card.candidates, card.metric) == (self.candidates, self.objective.metric)
        return card if same else None

    # ------------------------------------------------------------------ validation

    def _build(self, val: Split) -> EnsembleCard:
        predicted_MNK = [self._answers(trial, val) for trial in self.candidates]

        def measure(predicted_NK: Floats) -> float:
            return self._judge(predicted_NK, val).scores.macro[self.metric]

        selection = select_members(predicted_MNK, measure, self.objective.mode)
        weights = self._weights(selection)
        chosen = self._judge(mean_prediction(predicted_MNK, selection.weight_M), val)
        thresholds = dict(zip(self.label_set.names, chosen.thresholds_K.tolist(), strict=True))
        card = self._export(weights, thresholds, chosen.scores.macro, measure(predicted_MNK[0]))
        text = card.model_dump_json(indent=2) + "\n"
        write_whole(self.folder / CARD_NAME, lambda path: path.write_text(text, encoding="utf-8"))
        return card

    def _answers(self, trial: str, split: Split) -> Floats:
        """Return a member's probabilities_NK, or values_NK. Its own thresholds are given so that none is fitted."""
        trained = read_trained_model(self.run, trial)
        thresholds_K = trained.card.thresholds_K
        return evaluate(trained.model, split, trained.config, self.label_set, thresholds_K, self.device).predicted_NK

    def _judge(self, predicted_NK: Floats, split: Split, thresholds_K: Floats | None = None) -> Evaluation:
        """Score predictions; without thresholds they are fitted on the split, by the best trial's rule."""
        config = self._best.config
        if thresholds_K is None:
            thresholds_K = fit_thresholds(predicted_NK, split.labels_NK, config)
        scores = score(predicted_NK, split.labels_NK, self.label_set, thresholds_K, config.threshold_beta)
        return Evaluation(scores, thresholds_K, predicted_NK, split.labels_NK)

    def _weights(self, selection: Selection) -> dict[str, float]:
        shares = zip(self.candidates, selection.weight_M, strict=True)
        return {trial: weight for trial, weight in shares if weight}

    # ------------------------------------------------------------------ test

    def _earlier_look(self, record: SweepRecord, card: EnsembleCard) -> Mapping[str, Any] | None:
        """Return what the last look at an ensemble wrote down, if it was at this very one."""
        looks = [event.body["ensemble"] for event in record.tested if "ensemble" in event.body]
        if not looks or not (self.folder / PREDICTIONS_FILE).exists():
            return None
        last: Mapping[str, Any] = looks[-1]
        return last if (tuple(last["candidates"]), last["weights"]) == (card.candidates, card.weights) else None

    def _look(self, held_out: HeldOut, card: EnsembleCard) -> Mapping[str, Any]:
        def judge(test: Split) -> Evaluation:
            answers = [self._answers(trial, test) for trial in card.weights]
            return self._judge(mean_prediction(answers, [*card.weights.values()]), test, card.thresholds_K)

        beta = self._best.config.threshold_beta
        numbers = held_out.test(judge, beta, self.folder)
        difference = held_out.difference(self.run / BEST_FOLDER, self.folder, self.metric, beta)
        tested = {
            "candidates": list(card.candidates),
            "weights": card.weights,
            **numbers,
            "difference": None if difference is None else asdict(difference),
        }
        held_out.count(ensemble=tested)
        return tested

    # ------------------------------------------------------------------ export

    def _export(
        self, weights: dict[str, float], thresholds: dict[str, float], val: Mapping[str, float], best_val: float
    ) -> EnsembleCard:
        members = [self._predictor(read_trained_model(self.run, trial)) for trial in weights]
        best = self._predictor(self._best)
        content = self._serialise(members, weights, thresholds)
        best_content = self._serialise([best], {self.candidates[0]: 1.0}, {})
        return EnsembleCard(
            sweep=self.run.name,
            metric=self.objective.metric,
            candidates=self.candidates,
            weights=weights,
            thresholds=thresholds,
            val=dict(val),
            best_val=best_val,
            data=self._best.card.data,
            onnx_difference=self._write_onnx(content, members, weights),
            cost=cost(members, content),
            best_cost=cost([best], best_content),
        )

    def _serialise(
        self, members: list[Predictor], weights: Mapping[str, float], thresholds: Mapping[str, float]
    ) -> bytes | None:
        if not fits_one_file(members):
            return None
        return serialise_ensemble(members, [*weights.values()], self._notes(weights, thresholds))

    def _write_onnx(
        self, content: bytes | None, members: list[Predictor], weights: Mapping[str, float]
    ) -> float | None:
        path = self.folder / ONNX_FILE
        if content is None:
            path.unlink(missing_ok=True)  # of an earlier ensemble
            return None
        difference = write_ensemble(path, content, members, [*weights.values()])
        if not difference.largest <= difference.allowed:
            raise ArithmeticError(
                f"{path} differs from PyTorch by {difference.largest:.2e}, more than {difference.allowed:g}"
            )
        return difference.largest

    def _predictor(self, trained: TrainedModel) -> Predictor:
        return Predictor(trained.model, trained.config, trained.card.data)

    def _notes(self, weights: Mapping[str, float], thresholds: Mapping[str, float]) -> dict[str, str]:
        card = self._best.card
        return {
            "thresholds": json.dumps(thresholds),
            "sweep": card.sweep,
            "members": json.dumps(weights),
            "method": card.method,
            "fingerprint": card.data.fingerprint,
        }
