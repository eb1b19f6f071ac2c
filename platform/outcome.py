"""What a sweep leaves behind: the best trial tested once, its model ready for use, the leaderboard and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from numpy.typing import NDArray

from data.dataset import Dataset
from data.loading import Description, SharedDataset, materialise
from platform.checkpoints import rank
from platform.journal import Event, Journal, SweepRecord, TrialRecord
from platform.leaderboard import leaderboard, write_leaderboard
from platform.report import ReportInput, TestResult, write_report
from platform.spec import Spec
from platform.study import spawn_seed
from platform.study_db import Objectives, outcome_values
from platform.trained_model import BEST_FOLDER, CARD_NAME, WEIGHTS_NAME, read_trained_model
from trainables.bootstrap import bootstrap_intervals
from trainables.checkpoint import save_weights, write_whole
from trainables.evaluation import evaluate
from trainables.onnx_export import export_onnx
from trainables.windows import window_signal

PREDICTIONS_FILE = "test_predictions.npz"
ONNX_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What there is to say when a sweep has ended."""

    best: TrialRecord | None
    test: TestResult | None
    test_looks: int
    onnx_difference: float | None

    def best_values(self, spec: Spec) -> dict[str, float]:
        """Return the best trial's objectives as metrics of the whole sweep; empty where no trial ended well."""
        if self.best is None:
            return {}
        objectives = [(objective.metric, objective.mode) for objective in spec.search.objectives]
        values = outcome_values(self.best, objectives)
        return {f"best/{metric}": value for (metric, _), value in zip(objectives, values, strict=True)}

    def text(self, folder: Path, spec: Spec, resume: str) -> str:
        """Return the lines that end a sweep's output."""
        if self.best is None:
            return f"no trial completed; the tracebacks are in MLflow and in {folder}/report.html"
        objective = spec.search.objectives[0]
        value = self.best.best(objective.metric, objective.mode == "max")
        lines = [f"best trial {self.best.trial} ({self.best.state}): {objective.metric} {value:.4f}"]
        lines += self._test_lines(objective.metric)
        if self.onnx_difference is not None:
            lines.append(f"ONNX against PyTorch at batches 1 and 5: largest difference {self.onnx_difference:.1e}")
        return "\n".join([*lines, *_commands(folder, spec, resume)])

    def _test_lines(self, objective: str) -> list[str]:
        if self.test is None:
            return ["no test fold: nothing is tested"]
        shown = {objective.removeprefix("val/"), "auroc", "r2"} & set(self.test.metrics)
        lines = []
        for name in sorted(shown):
            low, high = self.test.intervals.get(name, (float("nan"), float("nan")))
            lines.append(f"test/{name} {self.test.metrics[name]:.4f} (95 % interval {low:.4f} to {high:.4f})")
        return [*lines, f"looks at the test fold: {self.test_looks}"]


def _commands(folder: Path, spec: Spec, resume: str) -> list[str]:
    return [
        f"  report       {folder}/report.html",
        f"  best model   {folder}/best/",
        f"  leaderboard  {folder}/leaderboard.csv",
        f"  runs         mlflow ui --backend-store-uri {spec.tracking.uri}   (experiment {spec.tracking.experiment})",
        f"  study        optuna-dashboard sqlite:///{folder}/study.db",
        f"  more trials  {resume} --set budget.trials={2 * spec.budget.trials}",
    ]


def conclude(
    spec: Spec,
    folder: Path,
    record: SweepRecord,
    journal: Journal,
    description: Description,
    dataset: SharedDataset,
    study: optuna.Study,
) -> Outcome:
    """Test the best trial, once, and write `best/`, `leaderboard.csv` and `report.html` into the sweep's folder."""
    objectives = [(objective.metric, objective.mode) for objective in spec.search.objectives]
    ranked = rank(record, objectives)
    outcome = Outcome(None, None, len(record.tested), None)
    if ranked:
        outcome = _Winner(spec, folder, record, journal, dataset, ranked[0]).conclude()
    metric, mode = objectives[0]
    write_leaderboard(folder / "leaderboard.csv", leaderboard(record, metric, mode))
    write_report(folder / "report.html", _report_input(spec, record, description, study, outcome.test, objectives))
    return outcome


class _Winner:
    """The best trial, rebuilt from its checkpoint in this process."""

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        record: SweepRecord,
        journal: Journal,
        dataset: SharedDataset,
        trial: TrialRecord,
    ) -> None:
        self.spec, self.record, self.journal, self.dataset, self.trial = spec, record, journal, dataset, trial
        self.folder = folder / BEST_FOLDER
        self.trained = read_trained_model(folder, trial.trial)
        self.device = "cuda" if spec.resources.gpus and torch.cuda.is_available() else "cpu"

    def conclude(self) -> Outcome:
        self.folder.mkdir(exist_ok=True)
        test = self._test()
        model, card = self.trained.model, self.trained.card
        save_weights(self.folder / WEIGHTS_NAME, model.state_dict())
        difference = export_onnx(
            model, window_signal(self.trained.config, card.data.signal), self.folder / "model.onnx"
        )
        if difference > ONNX_TOLERANCE:
            raise ArithmeticError(
                f"{self.folder}/model.onnx differs from PyTorch by {difference:.2e}, more than {ONNX_TOLERANCE:g}"
            )
        text = card.model_dump_json(indent=2) + "\n"
        write_whole(self.folder / CARD_NAME, lambda path: path.write_text(text, encoding="utf-8"))
        return Outcome(self.trial, test, len(self.record.tested), difference)

    def _test(self) -> TestResult | None:
        """Look at the test fold, unless the last look was at this very trial."""
        if not self._has_test():
            return None
        last = self.record.tested[-1] if self.record.tested else None
        if last is None or last.trial != self.trial.trial or not (self.folder / PREDICTIONS_FILE).exists():
            last = self._look()
        predictions = np.load(self.folder / PREDICTIONS_FILE)
        return TestResult(
            labels_NK=self._truth(predictions["labels_NK"]),
            probabilities_NK=predictions["predicted_NK"],
            label_names=self.dataset.label_set.names,
            metrics=last.body["metrics"],
            intervals={name: tuple(interval) for name, interval in last.body["intervals"].items()},
        )

    def _truth(self, labels_NK: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one column a class, for multiclass too."""
        label_set = self.dataset.label_set
        if label_set.task != "multiclass":
            return labels_NK
        return np.eye(label_set.n_outputs, dtype=np.float32)[labels_NK[:, 0].astype(np.int64)]

    def _has_test(self) -> bool:
        return bool(self.dataset.plan.folds.get("test"))

    def _look(self) -> Event:
        test: Dataset = materialise(self.spec.data, roles=("test",)).open()
        assert test.test is not None
        result = evaluate(
            self.trained.model,
            test.test,
            self.trained.config,
            self.dataset.label_set,
            self.trained.card.thresholds_K,
            self.device,
        )
        intervals = bootstrap_intervals(
            result,
            self.dataset.label_set,
            self.trained.config.threshold_beta,
            test.test.patient_ids,
            seed=spawn_seed(self.spec.seed, 0, 3),
        )
        temporary = self.folder / f"new-{PREDICTIONS_FILE}"
        np.savez_compressed(
            temporary,
            record_ids=test.test.record_ids,
            labels_NK=result.labels_NK,
            predicted_NK=result.predicted_NK,
            thresholds_K=result.thresholds_K,
        )
        temporary.replace(self.folder / PREDICTIONS_FILE)
        event = self.journal.append(
            "tested",
            self.trial.trial,
            look=len(self.record.tested) + 1,
            metrics=dict(result.scores.macro),
            per_class={name: dict(values) for name, values in result.scores.per_class.items()},
            left_out=list(result.scores.left_out),
            intervals={name: list(interval) for name, interval in intervals.items()},
        )
        self.record.apply(event)
        return event


def _report_input(
    spec: Spec,
    record: SweepRecord,
    description: Description,
    study: optuna.Study,
    test: TestResult | None,
    objectives: Objectives,
) -> ReportInput:
    opened = record.opened[-1].body
    manifest = description.manifest
    assert manifest is not None
    notes = list(manifest.notes)
    if opened["n_bad_records"]:
        notes.append(f"{opened['n_bad_records']} records of corrupt shards were left out")
    return ReportInput(
        record=record,
        study=study,
        objectives=objectives,
        most_epochs=spec.budget.most_epochs,
        title=study.study_name,
        command=opened["command"],
        header={
            "method": spec.method,
            "store": spec.data.store,
            "fingerprint": manifest.fingerprint,
            "labels": description.label_set.name,
            "seed": str(spec.seed),
            "git commit": opened["git_commit"],
            "versions": opened["versions"],
        },
        spec_text=spec.to_yaml(),
        test=test,
        notes=notes,
    )
