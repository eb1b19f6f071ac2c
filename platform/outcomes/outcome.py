"""What a sweep leaves behind: the best trial tested once, its model ready for use, the leaderboard and the report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import optuna
import torch

from data.dataset import Split
from data.loading import Description, SharedDataset, materialise
from platform.evaluation.held_out import PREDICTIONS_FILE, HeldOut
from platform.evaluation.test_result import TestResult
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.methods.outcomes import METHOD_OUTCOMES
from platform.mlflow_views.model import MLFLOW_FOLDER, save_mlflow_model
from platform.models.ensemble_card import ENSEMBLE_FOLDER
from platform.models.trained_model import BEST_FOLDER, CARD_NAME, WEIGHTS_NAME, read_trained_model
from platform.models.trained_onnx import ONNX_NAME
from platform.outcomes.choice import Choice, choose
from platform.outcomes.ensemble import SweepEnsemble, find_candidates
from platform.outcomes.ensemble_result import EnsembleResult
from platform.outcomes.repeat_result import RepeatResult, RepeatTests
from platform.outcomes.report import ReportInput, write_report
from platform.search.study import spawn_seed
from platform.specs.spec import Spec
from platform.sweeps.checkpoints import rank
from platform.sweeps.journal import Journal, SweepRecord, TrialRecord
from platform.sweeps.leaderboard import RANKED, leaderboard, write_leaderboard
from platform.sweeps.study_db import Objectives, outcome_values
from trainables.checkpoint import load_weights, save_weights, write_whole
from trainables.evaluation import evaluate
from trainables.onnx_export import export_onnx, why_not_exported
from trainables.windows import window_signal

ONNX_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What there is to say when a sweep has ended."""

    best: TrialRecord | None
    test: TestResult | None
    test_looks: int
    onnx_difference: float | None
    no_onnx: str | None = None  # why there is no ONNX file
    ensemble: EnsembleResult | None = None
    repeats: RepeatResult | None = None
    findings: Findings = field(default_factory=Findings)
    choice: Choice | None = None
    n_ended_well: int = 0  # trials, those that break a constraint included

    def best_values(self, spec: Spec) -> dict[str, float]:
        """Return the best trial's objectives, and the spread of its repeats, as metrics of the whole sweep; empty where
        no trial ended well."""
        if self.best is None:
            return {}
        objectives = spec.objectives
        values = outcome_values(self.best, objectives)
        best = {f"best/{metric}": value for (metric, _), value in zip(objectives, values, strict=True)}
        return {**best, **(self.repeats.metrics() if self.repeats is not None else {})}

    def text(self, folder: Path, spec: Spec, resume: str, key: str = "") -> str:
        """Return the lines that end a sweep's output.

        Args:
            resume: the command that takes it up again.
            key: of a stage: what stands before its keys in `--set`.
        """
        if self.best is None:
            return self._nothing(folder, spec)
        objective = spec.search.objectives[0]
        value = self.best.best(objective.metric, objective.mode == "max")
        lines = [f"best trial {self.best.trial} ({self.best.state}): {objective.metric} {value:.4f}"]
        lines += self._test_lines(objective.metric)
        if self.onnx_difference is not None:
            lines.append(f"ONNX against PyTorch at batches 1 and 5: largest difference {self.onnx_difference:.1e}")
        if self.no_onnx is not None:
            lines.append(f"no ONNX file, since {self.no_onnx}; latency is PyTorch's")
        if self.choice is not None:
            lines += self.choice.lines()
        if self.ensemble is not None:
            lines += self.ensemble.lines()
        if self.repeats is not None:
            lines += self.repeats.lines()
        lines += self.findings.lines
        return "\n".join([*lines, *_commands(folder, spec, resume, key)])

    def _nothing(self, folder: Path, spec: Spec) -> str:
        if self.n_ended_well:
            why = f"none of {self.n_ended_well} trials keeps the constraints {spec.constraint_texts}"
            return f"{why}, or all are degenerate; see {folder}/leaderboard.csv"
        return f"no trial completed; the tracebacks are in MLflow and in {folder}/report.html"

    def _test_lines(self, objective: str) -> list[str]:
        if self.test is None:
            return ["no test fold: nothing is tested"]
        shown = {objective.removeprefix("val/"), "auroc", "r2"} & set(self.test.metrics)
        lines = []
        for name in sorted(shown):
            low, high = self.test.intervals.get(name, (float("nan"), float("nan")))
            lines.append(f"test/{name} {self.test.metrics[name]:.4f} (95 % interval {low:.4f} to {high:.4f})")
        return [*lines, f"looks at the test fold: {self.test_looks}"]


def _commands(folder: Path, spec: Spec, resume: str, key: str) -> list[str]:
    return [
        f"  report       {folder}/report.html",
        f"  best model   {folder}/best/",
        *([f"  ensemble     {folder}/{ENSEMBLE_FOLDER}/"] if spec.ensemble else []),
        f"  leaderboard  {folder}/leaderboard.csv",
        f"  runs         mlflow ui --backend-store-uri {spec.tracking.uri}   (experiment {spec.tracking.experiment})",
        f"  study        optuna-dashboard sqlite:///{folder}/study.db",
        f"  more trials  {resume} --set {key}budget.trials={2 * spec.budget.trials}",
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
    """Choose a trial; test it, the ensemble and each repeat, once; write `best/`, `ensemble/`, `leaderboard.csv`,
    `repeats.csv`, `report.html`.

    Each of them is a look at the test fold, and counted, as are those of the method's own outcome.
    """
    objectives = spec.objectives
    n_ended_well = sum(trial.state in RANKED for trial in record.trials.values())
    outcome = Outcome(None, None, len(record.tested), None, n_ended_well=n_ended_well)
    choice = choose(spec, folder, record, journal)
    if choice is not None:
        ranked = sorted(rank(record, objectives), key=lambda trial: trial is not choice.chosen)  # the chosen one first
        held_out = _held_out(spec, record, journal, dataset)
        outcome = _Winner(spec, folder, record, held_out, dataset, choice.chosen).conclude()
        ensemble = _conclude_ensemble(spec, folder, record, held_out, dataset, ranked, outcome.test)
        repeats = _conclude_repeats(spec, folder, record, held_out, dataset, ranked[0], outcome.test)
        sweep = FinishedSweep(spec, folder, record, description, dataset, ranked, held_out, outcome.test, _device(spec))
        outcome = replace(
            outcome,
            choice=choice,
            ensemble=ensemble,
            repeats=repeats,
            findings=_conclude_method(sweep),
            test_looks=len(record.tested),
        )
    metric, mode = objectives[0]
    write_leaderboard(folder / "leaderboard.csv", leaderboard(record, metric, mode))
    write_report(folder / "report.html", _report_input(spec, record, description, study, outcome, objectives))
    return outcome


def _held_out(spec: Spec, record: SweepRecord, journal: Journal, dataset: SharedDataset) -> HeldOut | None:
    """Return the test fold, which nothing has read yet; None where there is none, or nothing to test without labels."""
    if not dataset.plan.folds.get("test") or dataset.label_set.task == "unlabelled":
        return None

    def read() -> Split:
        test = materialise(spec.data, roles=("test",)).open().test
        assert test is not None
        return test

    return HeldOut(read, dataset.label_set, record, journal, seed=spawn_seed(spec.seed, 0, 3))


def _conclude_ensemble(
    spec: Spec,
    folder: Path,
    record: SweepRecord,
    held_out: HeldOut | None,
    dataset: SharedDataset,
    ranked: list[TrialRecord],
    best: TestResult | None,
) -> EnsembleResult | None:
    if spec.ensemble is None:
        return None
    candidates = find_candidates(folder, ranked, spec.ensemble)
    ensemble = SweepEnsemble(folder, candidates, spec.search.objectives[0], dataset.label_set, _device(spec))
    return ensemble.conclude(dataset.open().val, held_out, record, best)


def _conclude_method(sweep: FinishedSweep) -> Findings:
    own = METHOD_OUTCOMES.get(sweep.spec.method)
    return Findings() if own is None else own.conclude(sweep)


def _conclude_repeats(
    spec: Spec,
    folder: Path,
    record: SweepRecord,
    held_out: HeldOut | None,
    dataset: SharedDataset,
    best: TrialRecord,
    test: TestResult | None,
) -> RepeatResult | None:
    if spec.repeats is None:
        return None
    objective = spec.search.objectives[0]
    tests = RepeatTests(folder, record, held_out, dataset.label_set, _device(spec), objective.metric, objective.mode)
    return tests.conclude(best, spec.repeats.seeds, {} if test is None else test.metrics)


def _device(spec: Spec) -> str:
    return "cuda" if spec.resources.gpus and torch.cuda.is_available() else "cpu"


class _Winner:
    """The best trial, rebuilt from its checkpoint in this process."""

    def __init__(
        self,
        spec: Spec,
        folder: Path,
        record: SweepRecord,
        held_out: HeldOut | None,
        dataset: SharedDataset,
        trial: TrialRecord,
    ) -> None:
        self.spec, self.record, self.held_out, self.dataset, self.trial = spec, record, held_out, dataset, trial
        self.folder = folder / BEST_FOLDER
        self.trained = read_trained_model(folder, trial.trial)

    def conclude(self) -> Outcome:
        self.folder.mkdir(exist_ok=True)
        test = self._test()
        model, card = self.trained.model, self.trained.card
        save_weights(self.folder / WEIGHTS_NAME, load_weights(self.trained.weights))
        text = card.model_dump_json(indent=2) + "\n"
        write_whole(self.folder / CARD_NAME, lambda path: path.write_text(text, encoding="utf-8"))
        no_onnx = why_not_exported(model)
        if no_onnx is not None:  # nor does an earlier best trial's file stay
            (self.folder / ONNX_NAME).unlink(missing_ok=True)
            shutil.rmtree(self.folder / MLFLOW_FOLDER, ignore_errors=True)
            return Outcome(self.trial, test, len(self.record.tested), None, no_onnx)
        difference = self._export()
        if card.data.label_set.task != "unlabelled":  # an encoder is for fine-tuning, and answers nobody
            save_mlflow_model(self.trained, self.folder / MLFLOW_FOLDER)
        return Outcome(self.trial, test, len(self.record.tested), difference)

    def _export(self) -> float:
        """Write the ONNX file; returns its largest difference from PyTorch."""
        trained, path = self.trained, self.folder / ONNX_NAME
        difference = export_onnx(trained.model, window_signal(trained.config, trained.card.data.signal), path)
        if difference > ONNX_TOLERANCE:
            raise ArithmeticError(f"{path} differs from PyTorch by {difference:.2e}, more than {ONNX_TOLERANCE:g}")
        return difference

    def _test(self) -> TestResult | None:
        """Look at the test fold, unless the last look was at this very trial."""
        if self.held_out is None:
            return None
        own = [event for event in self.record.tested if "metrics" in event.body]  # of a sweep's best trial
        last = own[-1] if own else None
        if last is None or last.trial != self.trial.trial or not (self.folder / PREDICTIONS_FILE).exists():
            trained, label_set = self.trained, self.dataset.label_set
            judge = partial(
                evaluate,
                trained.model,
                config=trained.config,
                label_set=label_set,
                thresholds_K=trained.card.thresholds_K,
                device=_device(self.spec),
            )
            numbers = self.held_out.test(judge, trained.config.threshold_beta, self.folder)
            last = self.held_out.count(self.trial.trial, **numbers)
        return self.held_out.result(self.folder, last.body)


def _report_input(
    spec: Spec,
    record: SweepRecord,
    description: Description,
    study: optuna.Study,
    outcome: Outcome,
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
            "records without a label": "left out" if spec.data.drop_unlabelled else "kept",
            "seed": str(spec.seed),
            "git commit": opened["git_commit"],
            "versions": opened["versions"],
        },
        spec_text=spec.to_yaml(),
        test=outcome.test,
        choice="" if outcome.best is None else outcome.best.trial,
        tables=[
            *(result.table() for result in (outcome.choice, outcome.repeats, outcome.ensemble) if result is not None),
            *outcome.findings.tables,
        ],
        pictures=outcome.findings.pictures,
        notes=[
            *notes,
            *([] if outcome.no_onnx is None else [f"there is no ONNX file, since {outcome.no_onnx}"]),
            *outcome.findings.notes,
        ],
    )
