"""Comparison of sweeps whose models have random weights; MLflow where it is asked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from platform import compare
from platform.evaluation.comparison import compare as compare_sweeps
from platform.evaluation.comparison import read_contender
from platform.sweeps.journal import read_events, replay
from platform.tracking import Tracker
from tests.platform.trained_sweeps import make_store, make_sweep


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    make_store(folder / "twelve", n_records=600)
    make_store(folder / "other", n_records=600, seed=5)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Path:
    """Return a folder with three sweeps of growing networks; do not change them."""
    folder = tmp_path_factory.mktemp("runs")
    for number, channels in enumerate((4, 8, 16), start=1):
        make_sweep(folder / f"tiny-{number:03d}", stores / "twelve", seed=number, params={"channels": channels})
    return folder


def run_compare(*arguments: str | Path) -> int:
    return compare.main([str(argument) for argument in arguments])


def test_the_leaderboard_has_scikit_learns_numbers_and_the_costs(runs: Path, tmp_path: Path) -> None:
    folders = sorted(runs.glob("tiny-*"))
    assert run_compare(*folders, "--out", tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("sweep")
    assert table["auroc"].is_monotonic_decreasing
    assert table["rank"].tolist() == [1, 2, 3]
    for folder in folders:
        row, kept = table.loc[folder.name], np.load(folder / "best" / "test_predictions.npz")
        assert row["auroc"] == pytest.approx(roc_auc_score(kept["labels_NK"], kept["predicted_NK"]), abs=1e-12)
        assert row["low"] < row["auroc"] < row["high"]
        assert (row["trials"], row["epochs"], row["peak_memory_bytes"]) == (1, 1, 2e8)
        assert row["onnx_bytes"] == (folder / "best" / "model.onnx").stat().st_size
        assert row["latency_ms"] > 0
    assert table.loc["tiny-001", "trainable_parameters"] < table.loc["tiny-003", "trainable_parameters"]


def test_differences_are_to_the_first_named_and_corrected_for_their_number(runs: Path, tmp_path: Path) -> None:
    folders = sorted(runs.glob("tiny-*"))[::-1]
    assert run_compare(*folders, "--metric", "map", "--out", tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv").set_index("sweep")
    first = table.loc["tiny-003"]
    assert first[["difference", "difference_low", "p", "p_holm"]].isna().all()
    others = table.drop(index="tiny-003")
    np.testing.assert_allclose(others["difference"], others["map"] - first["map"], atol=1e-12)
    assert (others["difference_low"] <= others["difference"]).all()
    assert (others["difference"] <= others["difference_high"]).all()
    smaller, larger = sorted(others["p"])
    assert sorted(others["p_holm"]) == pytest.approx(sorted([min(1, 2 * smaller), max(min(1, 2 * smaller), larger)]))


def test_a_copy_of_a_sweep_does_not_differ_from_it(runs: Path, stores: Path, tmp_path: Path) -> None:
    copy = make_sweep(tmp_path / "copy-001", stores / "twelve", seed=1)
    rows = compare_sweeps([read_contender(runs / "tiny-001"), read_contender(copy)], "auroc", n_resamples=50)
    (other,) = (row for row in rows if row.sweep == "copy-001")
    assert (other.difference, other.difference_low, other.difference_high, other.p_holm) == (0, 0, 0, 1)


def test_no_test_fold_is_looked_at_again(runs: Path) -> None:
    assert [len(replay(read_events(folder)).tested) for folder in sorted(runs.glob("tiny-*"))] == [1, 1, 1]


def test_the_page_stands_alone_and_has_the_picture(runs: Path, tmp_path: Path) -> None:
    assert run_compare(*sorted(runs.glob("tiny-*")), "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    for text in ("<h2>Metric against cost</h2>", "hours of the sweep", "tiny-002", "<h2>Differences to tiny-001</h2>"):
        assert text in page


def test_of_errors_the_smallest_is_best(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", task="multitask")
    sweeps = [make_sweep(tmp_path / f"age-{seed:03d}", store, seed=seed, labels="age") for seed in (1, 2)]
    rows = compare_sweeps([read_contender(sweep) for sweep in sweeps], "mae", n_resamples=50)
    assert rows[0].value <= rows[1].value


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("store", "made", "message"),
    [
        ("other", {}, "can't be compared with .*: fingerprints differ"),
        ("twelve", {"folds": {"train": [1, 2, 3], "val": [4], "test": [5]}}, "folds differ: .*'test': .5,."),
        ("twelve", {"drop_unlabelled": False}, "test records differ"),
    ],
)
def test_sweeps_that_were_not_tested_on_the_same_records_are_refused(
    runs: Path, stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    store: str, made: dict[str, Any], message: str,
) -> None:  # fmt: skip
    other = make_sweep(tmp_path / "other-001", stores / store, data=made)
    before = sorted(tmp_path.rglob("*"))
    assert run_compare(runs / "tiny-001", other) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert not (runs / "comparisons").exists()


def test_other_labels_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", task="multitask")
    sweeps = [make_sweep(tmp_path / f"{name}-001", store, labels=name) for name in ("gender", "age")]
    assert run_compare(*sweeps) == 2
    assert "labels differ: ('age', ('age',)), not ('gender'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-001"], "a comparison needs two finished sweeps at least, but got 1"),
        (["tiny-001", "tiny-001"], "tiny-001 is named twice"),
        (["tiny-001", "nowhere"], "nowhere/best/config.json is not there"),
        (["tiny-001", "tiny-002", "--metric", "auc"], "--metric must be one of accuracy, .*, but got 'auc'"),
        (["--experiment", "none", "--uri", "sqlite:////nowhere/mlflow.db"], "nowhere/mlflow.db is not there"),
    ],
)
def test_wrong_input_is_one_line(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(runs)
    assert run_compare(*arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_sweeps_and_an_experiment_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_compare("runs/a-001", "runs/b-001", "--experiment", "ptbxl")
    assert "name sweeps (RUN RUN ...) or an --experiment, and not both" in capsys.readouterr().err


# ------------------------------------------------------------------ an experiment


def test_an_experiments_finished_sweeps_are_compared(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for seed in (1, 2):
        folder = make_sweep(tmp_path / "runs" / f"tiny-{seed:03d}", stores / "twelve", seed=seed)
        tracker = Tracker(folder, uri, "tiny", {"stage": "search"}, {}, sweep_name=folder.name)
        assert tracker.close(timeout_s=120) == 0
    experiment = ("--experiment", "tiny", "--uri", uri)
    assert run_compare(*experiment, "--runs", tmp_path / "runs", "--out", tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(table["sweep"]) == {"tiny-001", "tiny-002"}
    assert table.set_index("sweep")["difference"].isna().to_dict() == {"tiny-001": True, "tiny-002": False}
    assert run_compare(*experiment, "--runs", tmp_path / "empty") == 2
    assert "has no sweep tiny-001; say with --runs where the experiment's sweeps are" in capsys.readouterr().err
    assert run_compare("--experiment", "absent", "--uri", uri) == 2
    assert "has no experiment 'absent'; it has " in capsys.readouterr().err
