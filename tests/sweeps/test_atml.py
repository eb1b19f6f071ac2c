"""A sweep of `method: atml`: sizes that cost nothing, the best so far, files for small devices, contest scores."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from tests.sweeps.conftest import make_workplace
from tests.sweeps.workplace import Workplace

LIMIT_BYTES = 30_000  # AFNet is larger, OptimizedAFNet and the linear classifier are smaller
CRITERION = "val/min_of-f1-accuracy-precision-recall"


@pytest.fixture(scope="module")
def swept(base: Path, ray_cluster: None) -> Workplace:
    place = make_workplace(base, "atml")
    code = place.sweep(
        method="atml",
        params={
            "model": {"choice": ["AFNet", "OptimizedAFNet", "LinearBinaryClassifier"]},
            "lr": 1e-2,
            "dropout": 0.1,
        },
        search={
            "metric": "min_of(f1, accuracy, precision, recall)", "mode": "max", "sampler": "grid", "scheduler": "none"
        },
        constraints=[f"onnx_bytes <= {LIMIT_BYTES}"],
        budget={"trials": 3, "epochs": 5},
        resources={"concurrency": 2},
    )  # fmt: skip
    assert code == 0
    return place


def test_a_network_that_is_too_large_costs_no_epoch(swept: Workplace) -> None:
    record = swept.record()
    assert [event.body["params"]["model"] for event in record.infeasible] == ["AFNet"]
    assert {trial.params["model"] for trial in record.trials.values()} == {"OptimizedAFNet", "LinearBinaryClassifier"}
    assert all(trial.static["onnx_bytes"] <= LIMIT_BYTES for trial in record.trials.values())
    assert record.epochs == sum(trial.epochs for trial in record.trials.values())


def test_the_size_foretold_is_that_of_the_file(swept: Workplace) -> None:
    folder = swept.runs / "tiny-001"
    best = swept.record().tested[-1].trial
    foretold = swept.record().trials[best].static["onnx_bytes"]
    assert (folder / "best" / "model.onnx").stat().st_size == pytest.approx(foretold, rel=0.01)


def test_the_folder_of_the_best_is_named_by_its_scores(swept: Workplace) -> None:
    (folder,) = (swept.runs / "tiny-001" / "results").iterdir()
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "model.onnx", "evaluation_metrics.txt", "edge"}
    metrics = dict(line.split(": ") for line in (folder / "evaluation_metrics.txt").read_text().splitlines())
    four = [float(metrics[name]) for name in ("F1", "Accuracy", "Precision", "Recall")]
    assert folder.name == f"{int(100 * max(four) + 1e-6)}-{int(100 * min(four) + 1e-6)}"
    trial = swept.record().trials[metrics["Trial"]]
    assert trial.best(CRITERION, maximise=True) == pytest.approx(min(four), abs=1e-4)
    assert 0 <= float(metrics["test/g_score"]) <= 1
    for name in ("test/f_beta", "test/subject_f_beta", "test/npv", "test/subject_balanced_accuracy"):
        assert 0 <= float(metrics[name]) <= 1


def test_the_edge_files_run_on_one_record(swept: Workplace) -> None:
    files = sorted((swept.runs / "tiny-001" / "results").glob("*/edge/*.onnx"))
    assert [file.name for file in files] == ["model_fp32.onnx", "model_int8_qdq.onnx", "model_int8_qoperator.onnx"]
    assert [onnxruntime.InferenceSession(file).get_inputs()[0].shape for file in files] == [[1, 1, 200]] * 3


def test_the_report_compares_the_architectures_and_names_the_smallest_file(swept: Workplace) -> None:
    page = (swept.runs / "tiny-001" / "report.html").read_text(encoding="utf-8")
    for text in (
        "Architectures",
        "LinearBinaryClassifier",
        "Files for small devices",
        "the smallest is",
        "Contest scores",
    ):
        assert text in page


def test_a_degenerate_epoch_is_never_a_trials_best(swept: Workplace) -> None:
    for trial in swept.record().trials.values():
        degenerate = {epoch for epoch, report in trial.reports.items() if report["val/degenerate"]}
        assert trial.last["best_epoch"] not in degenerate or degenerate == set(trial.reports)
