"""What a sweep leaves behind, from checkpoints that were never trained; the data are in memory, without Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from sklearn.metrics import roc_auc_score

from data.card import DataCard
from platform.evaluation.test_result import TestResult
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.methods.outcomes import METHOD_OUTCOMES, MethodOutcome
from platform.models.trained_model import DATA_CARD_NAME
from platform.outcomes import outcome as outcome_module
from platform.outcomes.outcome import PREDICTIONS_FILE, Outcome, conclude
from platform.pages.page import Cell, Table
from platform.sweeps.journal import Event, Journal, SweepRecord, replay
from platform.sweeps.study_db import frozen_trials
from tests.platform.small_spec import make_spec
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.checkpoint import load_weights, save_weights
from trainables.methods import METHODS
from trainables.tune_trial import BEST_FILE

SPEC = make_spec({"model": "cnn", "channels": 4, "lr": {"loguniform": [1e-4, 1e-1]}})
DATASET = tiny_dataset("multilabel")
OPENED = {
    "command": "python -m platform.sweep tiny.yaml",
    "git_commit": "abc",
    "versions": "torch 2",
    "n_bad_records": 2,
    "spec": {"method": SPEC.method, "seed": SPEC.seed},
}
MANIFEST = SimpleNamespace(fingerprint="f00d", notes=["patients are not known"])


class Sweep:
    """A sweep's folder with ended trials, and what `conclude` needs beside it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, folds: dict[str, Any] | None = None) -> None:
        self.folder, self.journal, self.record = folder, Journal(folder), SweepRecord()
        self.write("opened", **OPENED)
        self.dataset: Any = SimpleNamespace(
            signal=DATASET.signal,
            label_set=DATASET.label_set,
            plan=SimpleNamespace(
                store=folder / "store",
                stored_signal=DATASET.signal,
                steps=(),
                signal=DATASET.signal,
                label_set=DATASET.label_set,
                folds={"test": (10,)} if folds is None else folds,
            ),
            statistics=None,
            open=lambda: replace(DATASET, test=None),
        )
        card = DataCard.of(SPEC.data, self.dataset, MANIFEST.fingerprint)
        (folder / DATA_CARD_NAME).write_text(card.model_dump_json(), encoding="utf-8")
        self.looks = 0
        monkeypatch.setattr(outcome_module, "materialise", self._materialise)

    def _materialise(self, config: Any, roles: tuple[str, ...]) -> Any:
        assert roles == ("test",)
        self.looks += 1
        return SimpleNamespace(open=lambda: DATASET)

    def write(self, kind: Any, trial: str = "", **body: Any) -> None:
        self.record.apply(self.journal.append(kind, trial, **body))

    def add(self, number: int, auroc: float, state: str = "COMPLETED", excess: float = 0.0) -> str:
        trial, params = f"t{number:04d}", SPEC.flat_params({"lr": 1e-3})
        self.write("proposed", trial, number=number, params=params, sampled={}, distributions={}, static={})
        self.write("reported", trial, epoch=1, metrics={"val/auroc": auroc})
        self.write("ended", trial, state=state, constraints={"rule": excess})
        torch.manual_seed(number)
        method = METHODS[SPEC.method]
        model = method.build_model(method.parse_config(params), DATASET.signal, DATASET.label_set)
        (self.folder / "trials" / trial).mkdir(parents=True)
        notes = {"epoch": "1", "thresholds": "[0.5, 0.25]"}
        save_weights(self.folder / "trials" / trial / BEST_FILE, model.state_dict(), notes)
        return trial

    def conclude(self) -> Outcome:
        study = optuna.create_study(direction="maximize", study_name="tiny-001")
        study.add_trials(list(frozen_trials(self.record, [("val/auroc", "max")])))
        description: Any = SimpleNamespace(manifest=MANIFEST, label_set=DATASET.label_set)
        return conclude(SPEC, self.folder, self.record, self.journal, description, self.dataset, study)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    return Sweep(tmp_path, monkeypatch)


def test_the_best_trial_is_tested_and_its_model_and_tables_are_left(sweep: Sweep) -> None:
    sweep.add(0, auroc=0.6)
    best = sweep.add(1, auroc=0.8, state="STOPPED")
    sweep.add(2, auroc=0.9, excess=1.0)  # breaks a constraint
    sweep.add(3, auroc=0.99, state="FAILED")
    outcome = sweep.conclude()
    assert outcome.best is not None and outcome.best.trial == best
    assert outcome.onnx_difference is not None and outcome.onnx_difference < 1e-4
    assert {path.name for path in (sweep.folder / "best").iterdir()} == {
        "config.json", "mlflow_model", "model.onnx", "model.safetensors", PREDICTIONS_FILE,
    }  # fmt: skip
    assert (sweep.folder / "leaderboard.csv").read_text().splitlines()[1].startswith(f"1,{best},STOPPED")
    assert "2 records of corrupt shards were left out" in (sweep.folder / "report.html").read_text()
    weights = load_weights(sweep.folder / "best" / "model.safetensors")
    expected = load_weights(sweep.folder / "trials" / best / BEST_FILE)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_test_metrics_are_scikit_learns_on_the_predictions_that_are_kept(sweep: Sweep) -> None:
    sweep.add(0, auroc=0.6)
    outcome = sweep.conclude()
    kept = np.load(sweep.folder / "best" / PREDICTIONS_FILE)
    expected = roc_auc_score(kept["labels_NK"], kept["predicted_NK"], average="macro")
    assert outcome.test is not None
    assert outcome.test.metrics["auroc"] == pytest.approx(expected, abs=1e-6)
    low, high = outcome.test.intervals["auroc"]
    assert low < expected < high
    assert (kept["labels_NK"] == DATASET.test.labels_NK).all()  # type: ignore[union-attr]


def test_the_configuration_says_all_that_serving_the_model_needs(sweep: Sweep) -> None:
    trial = sweep.add(0, auroc=0.6)
    sweep.conclude()
    config = json.loads((sweep.folder / "best" / "config.json").read_text())
    assert config["trial"] == trial
    signal = config["data"]["signal"]
    assert signal["lead_names"] == list(DATASET.signal.lead_names)
    assert (signal["fs_hz"], signal["n_timesteps"]) == (DATASET.signal.fs_hz, DATASET.signal.n_timesteps)
    assert config["data"]["label_set"]["names"] == list(DATASET.label_set.names)
    assert config["thresholds"] == dict(zip(DATASET.label_set.names, [0.5, 0.25], strict=True))
    assert config["params"]["channels"] == 4


def test_the_test_fold_is_looked_at_once_a_best_trial(sweep: Sweep) -> None:
    sweep.add(0, auroc=0.6)
    first = sweep.conclude()
    again = sweep.conclude()  # a resume without a better trial
    assert (sweep.looks, first.test_looks, again.test_looks) == (1, 1, 1)
    assert again.test is not None and first.test is not None
    assert again.test.metrics == first.test.metrics
    sweep.add(1, auroc=0.7)
    better = sweep.conclude()
    assert (sweep.looks, better.test_looks) == (2, 2)
    assert [event.trial for event in sweep.record.tested] == ["t0000", "t0001"]


def test_a_method_adds_its_own_tables_lines_files_and_looks_at_test(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = {}

    def conclude(finished: FinishedSweep) -> Findings:
        for trial in finished.ranked:
            tested = finished.test(trial, f"cell-{trial.trial}")
            assert tested is not None
            metrics[trial.trial] = tested.metrics
        (finished.result / "note.txt").write_text("mine")
        table = Table("Own table", "of the method", ("cell", "auroc"), [(Cell("a"), Cell("0.5"))])
        return Findings(["own line"], [table], ["own note"])

    monkeypatch.setitem(METHOD_OUTCOMES, SPEC.method, MethodOutcome(conclude))
    worse, best = sweep.add(0, auroc=0.6), sweep.add(1, auroc=0.7)
    outcome = sweep.conclude()
    assert outcome.test is not None and metrics[best] == outcome.test.metrics  # no look of its own
    assert [event.trial or event.body["finding"]["trial"] for event in sweep.record.tested] == [best, worse]
    assert outcome.test_looks == 2
    first = dict(metrics)
    assert (sweep.conclude().test_looks, metrics) == (2, first)  # a resume without a better trial
    sweep.add(2, auroc=0.65)
    assert sweep.conclude().test_looks == 3
    assert "own line" in outcome.text(sweep.folder, SPEC, "RESUME").splitlines()
    page = (sweep.folder / "report.html").read_text()
    assert "Own table" in page and "own note" in page
    assert {path.name for path in (sweep.folder / "result").iterdir()} == {"note.txt", "tested"}


def test_without_a_test_fold_nothing_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(tmp_path, monkeypatch, folds={})
    sweep.add(0, auroc=0.6)
    outcome = sweep.conclude()
    assert (outcome.test, outcome.test_looks, sweep.looks) == (None, 0, 0)
    assert "no test fold: nothing is tested" in outcome.text(tmp_path, SPEC, "RESUME")


def test_where_no_trial_completed_there_is_still_a_report(sweep: Sweep) -> None:
    sweep.add(0, auroc=0.6, state="FAILED")
    outcome = sweep.conclude()
    assert outcome.best is None
    assert not (sweep.folder / "best").exists()
    assert (sweep.folder / "leaderboard.csv").exists()
    assert (sweep.folder / "report.html").exists()
    assert outcome.text(sweep.folder, SPEC, "RESUME").startswith("no trial completed; the tracebacks are in MLflow")


def test_the_last_lines_name_the_result_and_the_commands() -> None:
    record = replay([
        Event("opened", 0),
        Event("proposed", 1, "t0007", {"number": 0, "params": {}, "sampled": {}, "distributions": {}}),
        Event("reported", 2, "t0007", {"epoch": 1, "metrics": {"val/auroc": 0.91234}}),
        Event("ended", 3, "t0007", {"state": "COMPLETED"}),
    ])  # fmt: skip
    test = TestResult(np.zeros((1, 1)), np.zeros((1, 1)), ["AF"], {"auroc": 0.9, "f1": 0.5}, {"auroc": (0.85, 0.95)})
    text = Outcome(record.trials["t0007"], test, 2, 3e-7).text(Path("runs/tiny-001"), SPEC, "RESUME")
    assert text.splitlines()[:4] == [
        "best trial t0007 (COMPLETED): val/auroc 0.9123",
        "test/auroc 0.9000 (95 % interval 0.8500 to 0.9500)",
        "looks at the test fold: 2",
        "ONNX against PyTorch at batches 1 and 5: largest difference 3.0e-07",
    ]
    for command in ("runs/tiny-001/report.html", "mlflow ui --backend-store-uri", "optuna-dashboard sqlite:///runs/tiny-001",
                    "RESUME --set budget.trials=80"):  # fmt: skip
        assert command in text
