"""Evaluation after a whole sweep: the look is counted in its folder and in MLflow."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from platform import evaluate, sweep
from platform.tracking import CURSOR_NAME
from tests.sweeps.workplace import Workplace


@pytest.fixture
def copied(finished: Workplace, tmp_path: Path) -> Workplace:
    """Return a copy of the finished sweep with an MLflow database of its own."""
    database = Path(shutil.copy(finished.database, tmp_path / "mlflow.db"))
    place = replace(finished, folder=tmp_path / finished.folder.name, database=database)
    shutil.copytree(finished.folder, place.folder)
    cursor = place.runs / "tiny-001" / CURSOR_NAME
    fields = json.loads(cursor.read_text(encoding="utf-8"))
    fields["target"]["uri"] = place.tracking_uri
    cursor.write_text(json.dumps(fields), encoding="utf-8")
    return place


def test_an_evaluation_on_test_is_the_second_look(
    copied: Workplace, finished: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = copied.runs / "tiny-001", copied.stores / "twelve_leads"
    assert evaluate.main([str(folder), "--store", str(store), "--out", str(copied.folder / "out")]) == 0
    assert "looks at this store's test fold: 2" in capsys.readouterr().out
    first, second = copied.record().tested
    assert second.body["evaluated"].items() >= first.body["metrics"].items()
    parent = copied.mlflow_runs()[""]
    assert parent.data.metrics["test_looks"] == 2
    assert parent.data.metrics["test/auroc"] == first.body["metrics"]["auroc"]
    history = MlflowClient(tracking_uri=copied.tracking_uri).get_metric_history(parent.info.run_id, "test_looks")
    assert [(point.step, point.value) for point in history] == [(1, 1), (2, 2)]
    found = json.loads((copied.folder / "out" / "evaluation.json").read_text(encoding="utf-8"))
    macro = found["groups"][0]["macro"]
    intervals = {name: [macro[name]["low"], macro[name]["high"]] for name in first.body["intervals"]}
    assert intervals == {name: pytest.approx(interval) for name, interval in first.body["intervals"].items()}
    assert finished.mlflow_runs()[""].data.metrics["test_looks"] == 1


def test_a_sweep_that_was_evaluated_can_be_taken_up_again(copied: Workplace) -> None:
    folder, store = copied.runs / "tiny-001", copied.stores / "twelve_leads"
    assert evaluate.main([str(folder), "--store", str(store), "--out", str(copied.folder / "out")]) == 0
    tracking = ["--set", f"tracking.uri={copied.tracking_uri}"]
    assert sweep.main([str(copied.folder / "tiny.yaml"), "--resume", str(folder), *tracking]) == 0
    assert len(copied.record().tested) == 2  # no trial more, so no look more
