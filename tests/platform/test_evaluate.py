"""Evaluation of models with random weights on small stores, without Ray or MLflow."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from data.dataset import LabelSet
from data.ingest import ingest_serially
from data.reader import Header, RecordBlock
from data.synthetic import SyntheticConfig, SyntheticReader
from platform import evaluate
from platform.evaluation.split import open_evaluation_split
from platform.models.trained_model import read_trained_model
from platform.sweeps.folder import locked
from platform.sweeps.journal import SweepRecord, read_events, replay
from tests.platform.trained_sweeps import SYNTHETIC, make_store, make_sweep
from trainables.evaluation import evaluate as predict_and_score
from trainables.evaluation import predict


class Rearranged:
    """The synthetic data set with its leads and its labels turned round, and more labels, which never occur."""

    def __init__(self, extra: Sequence[str] = (), **synthetic: Any) -> None:
        self._reader = SyntheticReader(SyntheticConfig.model_validate({**SYNTHETIC, **synthetic}))
        self._extra = extra

    @property
    def header(self) -> Header:
        header = self._reader.header
        (label_set,) = header.label_sets.values()
        names = (*label_set.names[::-1], *self._extra)
        return replace(
            header,
            lead_names=header.lead_names[::-1],
            label_sets={"findings": LabelSet("findings", label_set.task, names)},
        )

    def chunks(self) -> Sequence[Any]:
        return self._reader.chunks()

    def read(self, chunk: Any) -> RecordBlock:
        block = self._reader.read(chunk)
        ((name, labels_NK),) = block.labels.items()
        label_set = self._reader.header.label_sets[name]
        if label_set.task == "multiclass":
            turned_NK = label_set.n_outputs - 1 - labels_NK
        else:
            turned_NK = np.pad(labels_NK[:, ::-1], ((0, 0), (0, len(self._extra))))
        return replace(block, ecg_NLT=block.ecg_NLT[:, ::-1], labels={"findings": turned_NK})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "twelve", n_records=800)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores") / "elsewhere"
    ingest_serially(Rearranged(extra=["noise"], n_records=800), folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, store: Path) -> Path:
    return make_sweep(tmp_path / "runs" / "tiny-001", store, trials=("t0000", "t0001"))


def run_evaluate(*arguments: str | Path) -> int:
    return evaluate.main([str(argument) for argument in arguments])


def results(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    return fields


def record(run: Path) -> SweepRecord:
    return replay(read_events(run))


# ------------------------------------------------------------------ what is measured


def test_the_numbers_are_scikit_learns_on_the_models_own_answers(run: Path, store: Path, tmp_path: Path) -> None:
    assert run_evaluate(run, "--store", store, "--split", "val", "--out", tmp_path / "out") == 0
    trained = read_trained_model(run)
    split = open_evaluation_split(trained, store, "val").split
    logits_NK = predict(trained.model, split, trained.config, trained.card.data.label_set)
    predicted_NK, labels_NK = 1 / (1 + np.exp(-logits_NK.astype(np.float64))), split.labels_NK
    table = pd.read_csv(tmp_path / "out" / "metrics.csv").set_index(["group", "label", "metric"])
    names = trained.card.data.label_set.names
    assert table.loc[("all", "macro", "auroc"), "value"] == pytest.approx(
        roc_auc_score(labels_NK, predicted_NK), abs=1e-12
    )
    found = results(tmp_path / "out")
    for k, name in enumerate(names):
        row = table.loc[("all", name, "auroc")]
        assert row["value"] == pytest.approx(roc_auc_score(labels_NK[:, k], predicted_NK[:, k]), abs=1e-12)
        assert row["low"] < row["value"] < row["high"]
        assert row["n_positive"] == labels_NK[:, k].sum()
        expected = confusion_matrix(labels_NK[:, k], predicted_NK[:, k] >= 0.5)
        assert found["confusion"][name] == expected.tolist()


def test_the_sweeps_own_look_is_repeated_number_for_number(run: Path, store: Path, tmp_path: Path) -> None:
    assert run_evaluate(run, "--store", store, "--out", tmp_path / "out") == 0
    (first, _) = record(run).tested
    macro = results(tmp_path / "out")["groups"][0]["macro"]
    assert {name: macro[name]["value"] for name in first.body["metrics"]} == pytest.approx(first.body["metrics"])


def test_subgroups_are_scored_as_if_they_were_all(run: Path, store: Path, tmp_path: Path) -> None:
    assert run_evaluate(run, "--store", store, "--split", "train", "--out", tmp_path / "out") == 0
    trained = read_trained_model(run)
    opened = open_evaluation_split(trained, store, "train")
    label_set = trained.card.data.label_set
    whole = predict_and_score(trained.model, opened.split, trained.config, label_set, trained.card.thresholds_K)
    cards = {(card["attribute"], card["group"]): card for card in results(tmp_path / "out")["groups"]}
    female_N = opened.meta["sex"] == 1
    card = cards["sex", "female"]
    assert card["n_records"] == female_N.sum()
    assert card["n_patients"] == len(np.unique(opened.split.patient_ids[female_N]))
    expected = roc_auc_score(whole.labels_NK[female_N], whole.predicted_NK[female_N])
    assert card["macro"]["auroc"]["value"] == pytest.approx(expected, abs=1e-12)
    ages = {group: card["n_records"] for (attribute, group), card in cards.items() if attribute == "age"}
    assert sum(ages.values()) == len(female_N)
    assert ages["40 to 59"] == ((opened.meta["age"] >= 40) & (opened.meta["age"] < 60)).sum()


@pytest.mark.parametrize("trial", ["t0000", "t0001"])
def test_the_onnx_file_gives_the_same_numbers(run: Path, store: Path, tmp_path: Path, trial: str) -> None:
    """Of the best trial the file in best/, of another one that is made for now; labels keep their order of answers."""
    for name, flags in {"torch": [], "onnx": ["--onnx"]}.items():
        arguments = (run, "--trial", trial, "--store", store, "--split", "val", "--out", tmp_path / name)
        assert run_evaluate(*arguments, *flags) == 0
    torch_table, onnx_table = (pd.read_csv(tmp_path / name / "metrics.csv") for name in ("torch", "onnx"))
    assert results(tmp_path / "onnx")["runtime"] == "onnxruntime"
    for column in ("value", "low", "high"):
        np.testing.assert_allclose(onnx_table[column], torch_table[column], atol=1e-5)


def test_several_classes_have_one_confusion_matrix(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", task="rhythm")
    run = make_sweep(tmp_path / "runs" / "tiny-001", store)
    assert run_evaluate(run, "--store", store, "--split", "train", "--out", tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert np.array(found["confusion"]["rhythm"]).sum() == found["groups"][0]["n_records"]
    assert "top_label_ece" in found["groups"][0]["macro"]
    assert "Confusion" in (tmp_path / "out" / "evaluation.html").read_text(encoding="utf-8")


def test_a_regression_has_errors_but_neither_confusion_nor_calibration(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", task="multitask")
    run = make_sweep(tmp_path / "runs" / "tiny-001", store, labels="age")
    assert run_evaluate(run, "--store", store, "--split", "train", "--out", tmp_path / "out") == 0
    found = results(tmp_path / "out")
    assert set(found["groups"][0]["macro"]) == {"mae", "mse", "rmse", "r2"}
    assert (found["confusion"], found["reliability"]) == ({}, {})


def test_the_page_stands_alone(run: Path, store: Path) -> None:
    assert run_evaluate(run, "--store", store, "--split", "val") == 0
    page = (run / "evaluations" / "twelve-val-001" / "evaluation.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    for heading in ("ROC", "Calibration", "Metrics", "Subgroups", "Labels", "Confusion"):
        assert f"<h2>{heading}</h2>" in page


def test_a_trials_folder_is_that_trial(run: Path, store: Path, tmp_path: Path) -> None:
    whole = ("--store", store, "--split", "val")
    assert run_evaluate(run / "trials" / "t0001", *whole, "--out", tmp_path / "folder") == 0
    assert run_evaluate(run, "--trial", "t0001", *whole, "--out", tmp_path / "named") == 0
    folder, named = (results(tmp_path / name) for name in ("folder", "named"))
    assert folder["trial"] == "t0001"
    assert folder == named


# ------------------------------------------------------------------ looks


def test_each_look_at_a_test_fold_is_counted_in_the_journal(
    run: Path, store: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elapsed_s = record(run).elapsed_s(record(run).sessions[-1][1])
    assert run_evaluate(run, "--store", store) == 0
    assert "looks at this store's test fold: 2; at any store's with this sweep's models: 2" in capsys.readouterr().out
    assert run_evaluate(run, "--store", elsewhere, "--labels", "findings") == 0
    assert "looks at this store's test fold: 1; at any store's with this sweep's models: 3" in capsys.readouterr().out
    looks = record(run).tested
    assert [event.body["look"] for event in looks] == [1, 2, 3]
    assert ["metrics" in event.body for event in looks] == [True, False, False]
    after = record(run)
    assert after.elapsed_s(after.sessions[-1][1]) == elapsed_s


def test_other_splits_and_models_without_their_sweep_are_not_counted(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_evaluate(run, "--store", store, "--split", "val") == 0
    alone = (run / "best").rename(tmp_path / "taken")
    assert run_evaluate(alone, "--store", store) == 0
    assert "the model is not in its sweep's folder" in capsys.readouterr().out
    assert (alone / "evaluations" / "twelve-test-001" / "metrics.csv").exists()
    assert len(record(run).tested) == 1


# ------------------------------------------------------------------ what fits


def test_leads_and_labels_are_matched_by_name(run: Path, store: Path, elsewhere: Path) -> None:
    trained = read_trained_model(run)
    own = open_evaluation_split(trained, store, "train")
    other = open_evaluation_split(trained, elsewhere, "train")
    assert (own.is_own, other.is_own) == (True, False)
    # The other store keeps as unlabelled, and leaves out, the same records: its extra label never occurs.
    np.testing.assert_array_equal(own.split.labels_NK, other.split.labels_NK)
    (mine,), (theirs,) = (list(each.split.batches(1000)) for each in (own, other))
    np.testing.assert_array_equal(mine.ecg_BLT, theirs.ecg_BLT)


def test_classes_keep_their_meaning_whatever_their_numbers_are(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", task="rhythm")
    trained = read_trained_model(make_sweep(tmp_path / "runs" / "tiny-001", store))
    ingest_serially(Rearranged(task="rhythm"), tmp_path / "turned")
    own, turned = (open_evaluation_split(trained, each, "train").split for each in (store, tmp_path / "turned"))
    np.testing.assert_array_equal(own.labels_NK, turned.labels_NK)
    ingest_serially(Rearranged(extra=["noise"], task="rhythm"), tmp_path / "more")
    with pytest.raises(ValueError, match="'findings' also has 'noise', but the model answers sinus, brady"):
        open_evaluation_split(trained, tmp_path / "more", "train")


def test_the_statistics_of_the_training_folds_are_applied_to_another_store(tmp_path: Path, store: Path) -> None:
    run = make_sweep(tmp_path / "runs" / "tiny-001", store, preprocess=[{"zscore": {"per": "global"}}])
    trained = read_trained_model(run)
    statistics = trained.card.data.statistics
    assert statistics is not None
    other = make_store(tmp_path / "other", seed=7)
    raw = read_trained_model(make_sweep(tmp_path / "raw" / "tiny-001", store, preprocess=[]))
    (scaled,), (plain,) = (
        list(open_evaluation_split(each, other, "val").split.batches(1000)) for each in (trained, raw)
    )
    np.testing.assert_allclose(scaled.ecg_BLT, (plain.ecg_BLT - statistics.mean) / statistics.sd, atol=1e-4)


@pytest.mark.parametrize("data", [{"k_fold": {"k": 5, "fold": 2}}, {"drop_unlabelled": False}, {}])
def test_in_the_sweeps_own_store_its_own_test_records_are_taken(
    store: Path, tmp_path: Path, data: dict[str, Any]
) -> None:
    run = make_sweep(tmp_path / "runs" / "tiny-001", store, data=data)
    kept = np.load(run / "best" / "test_predictions.npz")
    opened = open_evaluation_split(read_trained_model(run), store, "test")
    assert opened.is_own
    np.testing.assert_array_equal(opened.split.record_ids, kept["record_ids"])
    np.testing.assert_array_equal(opened.split.labels_NK, kept["labels_NK"])


def test_a_model_of_windows_takes_longer_records_but_none_shorter_than_a_window(store: Path, tmp_path: Path) -> None:
    run = make_sweep(tmp_path / "runs" / "tiny-001", store, params={"crop_timesteps": 100})
    trained = read_trained_model(run)
    longer, shorter = make_store(tmp_path / "longer", duration_s=4), make_store(tmp_path / "shorter", duration_s=1.5)
    assert open_evaluation_split(trained, longer, "val").split.length_N.tolist()[:1] == [200]
    with pytest.raises(ValueError, match="its records have 75 timesteps, fewer than the model's window of 100"):
        open_evaluation_split(trained, shorter, "val")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"n_leads": 1}, "does not fit the model of .*: it lacks the leads I, III, aVR"),
        ({"fs_hz": 100}, "its rate is 100 Hz, but the model takes 50 Hz"),
        ({"duration_s": 4}, "have 200 timesteps, but the model takes 150"),
        ({"task": "rhythm"}, "the label set 'rhythm' is multiclass, but the model answers multilabel labels"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], made: dict[str, Any], message: str
) -> None:
    other = make_store(tmp_path / "other", **made)
    before = sorted(tmp_path.rglob("*"))
    assert run_evaluate(run, "--store", other) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "lock"] == before
    assert len(record(run).tested) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "nothing"], "has no label set 'nothing'; name one with --labels: morphology"),
        (["--trial", "t0009"], "has no trial 't0009'; it has t0000, t0001"),
        (["--store", "nowhere"], "nowhere is no store, as it has no dataset.json"),
    ],
)
def test_wrong_input_is_one_line(
    run: Path, store: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run_evaluate(run, "--store", store, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_label_that_the_store_lacks_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = read_trained_model(run)
    data = trained.card.data.model_copy(
        update={"label_set": LabelSet("morphology", "multilabel", ("long_qt", "smoking"))}
    )
    other = make_store(tmp_path / "other")
    trained = replace(trained, card=trained.card.model_copy(update={"data": data}))
    with pytest.raises(ValueError, match="'morphology' lacks 'smoking', but the model answers long_qt, smoking"):
        open_evaluation_split(trained, other, "test")


def test_a_folder_with_content_is_not_overwritten(run: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep", encoding="utf-8")
    assert run_evaluate(run, "--store", store, "--split", "val", "--out", tmp_path / "out") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_sweep_that_runs_is_not_looked_at(run: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(run):
        assert run_evaluate(run, "--store", store) == 2
    assert "another process runs this sweep" in capsys.readouterr().err
    assert len(record(run).tested) == 1
