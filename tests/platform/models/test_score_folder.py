"""`results/xx-yy/`: named by the four metrics, one at a time, with what users of the ECM search look for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnxruntime
import pytest

from platform.models.score_folder import append_metrics, score_name, write_score_folder
from platform.models.trained_model import TrainedModel, read_trained_model
from tests.platform.small_run import SmallRun
from trainables.checkpoint import load_weights


@pytest.fixture
def trained(small_run: SmallRun) -> TrainedModel:
    return read_trained_model(small_run.folder)


def with_val(trained: TrainedModel, **val: float) -> TrainedModel:
    return replace(trained, card=trained.card.model_copy(update={"val": val}))


@pytest.mark.parametrize(
    ("four", "name"),
    [
        ((0.9501, 0.9446, 0.9434, 0.9569), "95-94"),
        ((0.9369, 0.9284, 0.9101, 0.9653), "96-91"),
        ((0.8190, 0.7951, 0.7978, 0.8413), "84-79"),
        ((0.9164, 0.9099, 0.9370, 0.8967), "93-89"),
        ((0.6364, 0.4667, 0.4667, 1.0), "100-46"),
        ((0.29, 0.29, 0.29, 0.29), "29-29"),
    ],
)
def test_the_name_is_that_of_the_published_results(four: tuple[float, ...], name: str) -> None:
    assert score_name(dict(zip(("f1", "accuracy", "precision", "recall"), four, strict=True))) == name


def test_it_holds_the_model_its_onnx_file_and_its_metrics(trained: TrainedModel, tmp_path: Path) -> None:
    folder = write_score_folder(tmp_path, with_val(trained, f1=0.7, accuracy=0.8, precision=0.75, recall=0.65, npv=0.9))
    assert folder == tmp_path / "results" / "80-65"
    files = {path.name for path in folder.iterdir()}
    assert files == {"model.safetensors", "model.onnx", "evaluation_metrics.txt"}
    assert load_weights(folder / "model.safetensors").keys() == trained.model.state_dict().keys()
    onnxruntime.InferenceSession(folder / "model.onnx")
    append_metrics(folder, {"contest_score": 61.5})
    lines = (folder / "evaluation_metrics.txt").read_text().splitlines()
    metrics = dict(line.split(": ") for line in lines)
    assert metrics["F1"] == "0.7000"
    assert metrics["Model"] == "cnn"
    assert float(metrics["Learning Rate"]) == trained.card.params["lr"]
    assert float(metrics["ONNX Size (KiB)"]) * 1024 == pytest.approx((folder / "model.onnx").stat().st_size, abs=6)
    assert metrics["val/npv"] == "0.9000"
    assert metrics["contest_score"] == "61.5000"


def test_a_better_model_takes_the_place_of_the_one_before(trained: TrainedModel, tmp_path: Path) -> None:
    write_score_folder(tmp_path, with_val(trained, f1=0.7, accuracy=0.8))
    (tmp_path / "results" / ".new").mkdir()  # of a process that was killed
    for _ in range(2):
        write_score_folder(tmp_path, with_val(trained, f1=0.75, accuracy=0.8))
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["80-75"]


def test_regression_has_no_such_folder(trained: TrainedModel, tmp_path: Path) -> None:
    assert write_score_folder(tmp_path, with_val(trained, mae=3.0)) is None
    assert not (tmp_path / "results").exists()
