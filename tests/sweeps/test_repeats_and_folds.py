"""Whole sweeps with `repeats` and with `folds`."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from data.dataset import Split
from data.loading import DataConfig, load
from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.models.trained_model import read_trained_model
from platform.sweeps.journal import FILE_NAME
from platform.sweeps.spread import Spread
from tests.sweeps.scripted_method import grid
from tests.sweeps.workplace import Workplace, wait_until
from trainables.cross_validation import MeanModel
from trainables.evaluation import evaluate

ONCE = {"budget": {"trials": 2, "epochs": 2}}


def check_repeats(place: Workplace, n_seeds: int) -> None:
    """Check that every repeat was trained and tested once, and that all views say the same of them."""
    record = place.record()
    best = record.tested[0].trial
    repeats = record.repeats_of(best)
    assert [each.trial for each in repeats] == [f"{best}-r{n}" for n in range(1, n_seeds + 1)]
    assert {each.state for each in repeats} == {"COMPLETED"}
    assert {each.epochs for each in repeats} == {record.trials[best].params["epochs"]}
    looks = [event.body["repeat"] for event in record.tested if "repeat" in event.body]
    assert [look["trial"] for look in looks] == [each.trial for each in repeats]
    assert [event.body["look"] for event in record.tested] == list(range(1, n_seeds + 2))
    ended = Counter(event.trial for event in place.events() if event.kind == "ended")
    assert set(ended.values()) == {1}
    runs = place.mlflow_runs()
    assert sorted(runs) == sorted(["", *record.trials, *record.repeats])
    assert runs[f"{best}-r1"].data.tags["repeat_of"] == best
    assert runs[""].data.metrics["test_looks"] == n_seeds + 1
    spread = Spread.of([look["metrics"]["auroc"] for look in looks])
    assert runs[""].data.metrics["repeats/test/auroc/mean"] == pytest.approx(spread.mean)
    with (place.runs / "tiny-001" / "leaderboard.csv").open() as file:
        rows = {row["trial"]: row for row in csv.DictReader(file)}
    assert sorted(rows) == sorted(record.trials), "repeats are not ranked"
    assert float(rows[best]["repeats.test.sd"]) == pytest.approx(spread.sd)
    report = (place.runs / "tiny-001" / "report.html").read_text()
    assert f"{spread.low:.4f} to {spread.high:.4f}" in report
    assert read_trained_model(place.runs / "tiny-001", repeats[0].trial).card.trial == repeats[0].trial


@pytest.mark.usefixtures("scripted")
def test_the_best_configuration_is_repeated_and_more_seeds_only_add(place: Workplace) -> None:
    sections = {"method": "scripted", "params": grid(score=[0.6, 0.7]), **ONCE}
    search = {"metric": "val/auroc", "mode": "max", "sampler": "grid"}
    assert place.sweep(**sections, search=search, repeats={"seeds": 2}) == 0
    check_repeats(place, 2)
    assert place.main(place.folder / "tiny.yaml", "--resume", "--set", "repeats.seeds=3") == 0
    check_repeats(place, 3)
    assert place.record().trials["t0001"].attempts == 1


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("n_reports", [1, 3])
def test_repeats_that_are_killed_go_on(place: Workplace, n_reports: int) -> None:
    spec = place.write(budget={"trials": 2, "epochs": 2}, repeats={"seeds": 3})
    journal = place.runs / "tiny-001" / FILE_NAME

    def has_come_far() -> bool:
        events = place.events() if journal.exists() else []
        return sum(event.kind == "reported" and "-r" in event.trial for event in events) >= n_reports

    process = place.start(spec)
    try:
        assert wait_until(lambda: has_come_far() or process.poll() is not None, 240), place.output
        assert process.poll() is None, place.output
    finally:
        process.kill()
        process.wait()
    assert wait_until(lambda: not place.processes(), 30), place.processes()
    assert place.main(spec, "--resume") == 0
    check_repeats(place, 3)


def test_a_trial_is_the_mean_over_folds_and_the_best_is_tested_as_the_mean_of_its_models(place: Workplace) -> None:
    assert place.sweep(folds={"k": 3}, **ONCE) == 0
    record, folder = place.record(), place.runs / "tiny-001"
    for trial in record.trials.values():
        for metrics in trial.reports.values():
            folds = [metrics[f"fold{n}/val/auroc"] for n in (1, 2, 3)]
            assert metrics["val/auroc"] == pytest.approx(np.mean(folds))
    trained = read_trained_model(folder)
    assert isinstance(trained.model, MeanModel) and trained.card.folds == 3
    test = load(trained.card.data.config, ("train", "val", "test")).test
    assert test is not None
    check_test(trained.model, test, folder, trained.card.data.config)
    with (folder / "leaderboard.csv").open() as file:
        first = next(csv.DictReader(file))
    best = record.trials[first["trial"]]
    folds = [best.reports[int(first["best_epoch"])][f"fold{n}/val/auroc"] for n in (1, 2, 3)]
    assert float(first["folds.sd"]) == pytest.approx(Spread.of(folds).sd)
    client = MlflowClient(tracking_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name(place.folder.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.fold = '2'")
    assert sorted(run.info.run_name for run in runs) == ["t0000/fold2", "t0001/fold2"]


def check_test(model: MeanModel, test: Split, folder: Path, config: DataConfig) -> None:
    """Check the kept predictions against the mean of the k models' own probabilities."""
    trained = read_trained_model(folder)
    label_set = trained.card.data.label_set
    answers = [
        evaluate(each, test, trained.config, label_set, trained.card.thresholds_K).predicted_NK for each in model.models
    ]
    kept = np.load(folder / "best" / PREDICTIONS_FILE)
    assert sorted(kept["record_ids"]) == sorted(test.record_ids)
    order = np.argsort(kept["record_ids"]), np.argsort(test.record_ids)
    np.testing.assert_allclose(kept["predicted_NK"][order[0]], np.mean(answers, axis=0)[order[1]], rtol=1e-4)
