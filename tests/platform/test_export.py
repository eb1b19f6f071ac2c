"""`python -m platform.export`: files that others can run; and an MLflow model, in a process without our code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import signal as scipy_signal

from data.store import read_manifest, read_shard
from platform import export
from platform.mlflow_views.model import save_mlflow_model
from platform.models.trained_model import ModelCard, read_trained_model
from platform.predict import build_predictor
from tests.platform.small_run import SmallRun, make_run, make_store


@pytest.fixture(scope="module")
def ecg_NLT(small_run: SmallRun) -> NDArray[np.float32]:
    (shard, *_) = read_manifest(small_run.store).shards
    return read_shard(small_run.store, shard).ecg_NLT


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = export.main(list(map(str, arguments)))
    output = capsys.readouterr()
    assert code == 0, output.err
    return output.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    code = export.main(list(map(str, arguments)))
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert output.err.count("\n") == 1
    return output.err


def test_an_onnx_file_takes_filtered_mv_and_says_that_it_does(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, small_run.folder, "--format", "onnx", "--out", tmp_path / "model.onnx")
    assert 'NOT inside, to be done before: {"bandpass"' in text
    assert 'inside: {"zscore": {"per": "lead"}}' in text
    assert "largest difference" in text
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    known = session.get_modelmeta().custom_metadata_map
    (step,) = json.loads(known["steps_before"])
    band = step["bandpass"]
    sections = scipy_signal.butter(
        band["order"], (band["low_hz"], band["high_hz"]), "bandpass", output="sos", fs=json.loads(known["fs_hz"])
    )
    filtered_NLT = scipy_signal.sosfiltfilt(sections, ecg_NLT[:9], axis=-1).astype(np.float32)
    (answers_NK,) = session.run(None, {"ecg": filtered_NLT})
    trained = read_trained_model(small_run.folder)
    expected_NK = build_predictor(trained).predict(list(ecg_NLT[:9]))
    np.testing.assert_allclose(answers_NK, expected_NK, atol=1e-4)
    assert json.loads(known["thresholds"]) == trained.card.thresholds
    assert json.loads(known["label_names"]) == list(trained.card.data.label_set.names)
    assert (known["trial"], known["sweep"]) == ("t0000", "tiny-001")


def test_safetensors_have_the_weights_of_any_trial_and_its_card(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.safetensors"
    run(capsys, small_run.folder, "--trial", "t0001", "--format", "safetensors", "--out", out)
    trained = read_trained_model(small_run.folder, "t0001")
    with safe_open(out, "pt") as file:
        assert ModelCard.model_validate_json(file.metadata()["card"]) == trained.card
    weights = load_file(out)
    assert weights.keys() == trained.model.state_dict().keys()
    assert all(weights[name].equal(tensor) for name, tensor in trained.model.state_dict().items())


def test_int8_is_calibrated_on_training_records_and_costs_what_it_says(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "moved"
    small_run.store.rename(moved)
    try:
        arguments = (small_run.folder, "--format", "onnx", "--int8", "--out", tmp_path / "int8.onnx")
        assert "is no store" in refused(capsys, *arguments)
        text = run(capsys, *arguments, "--store", moved)
    finally:
        moved.rename(small_run.store)
    (n_records,) = read_manifest(small_run.store).counts.labelled.values()
    n_train = sum(n_records[fold] for fold in range(1, 9))
    assert f"calibrated on {n_train} records of the training folds" in text
    assert f"validation, {n_records[9]} records" in text
    (line,) = [line for line in text.splitlines() if line.strip().startswith("auroc")]
    exact, rounded, difference = map(float, line.split()[1:])
    assert difference == pytest.approx(rounded - exact, abs=2e-4)
    assert exact == pytest.approx(read_trained_model(small_run.folder).card.val["auroc"], abs=1e-3)
    assert (tmp_path / "int8.onnx").exists()


def test_edge_files_take_preprocessed_windows_and_are_tried_on_validation(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, small_run.folder, "--format", "edge", "--out", tmp_path / "edge")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "edge").iterdir()}
    assert set(sizes) == {"model_fp32.onnx", "model_int8_qdq.onnx", "model_int8_qoperator.onnx"}
    assert f"smallest: {min(sizes, key=lambda name: sizes[name])}" in text
    trained = read_trained_model(small_run.folder)
    (line,) = [line for line in text.splitlines() if line.strip().startswith("auroc")]
    assert float(line.split()[1]) == pytest.approx(trained.card.val["auroc"], abs=1e-4)
    session = onnxruntime.InferenceSession(tmp_path / "edge" / "model_fp32.onnx")
    assert session.get_inputs()[0].shape == [1, 12, 150]
    assert "name a new or an empty one" in refused(
        capsys, small_run.folder, "--format", "edge", "--out", tmp_path / "edge"
    )


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    small_run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.bin"
    assert "--int8 is for --format onnx" in refused(
        capsys, small_run.folder, "--format", "safetensors", "--int8", "--out", out
    )
    assert "name a file in a folder" in refused(capsys, small_run.folder, "--format", "onnx", "--out", tmp_path)
    assert "has no trial" in refused(capsys, small_run.folder, "--trial", "t9", "--format", "onnx", "--out", out)
    other = make_store(tmp_path / "other", n_records=60)
    assert "fingerprint" in refused(
        capsys, small_run.folder, "--format", "onnx", "--int8", "--store", other, "--out", out
    )
    assert not out.exists()


def mlflow_predict(model: Path, ecg_NLT: NDArray[np.float32], folder: Path) -> NDArray[np.float64]:
    """Run `mlflow models predict` in a process of its own, outside of the project, and return its answers."""
    (folder / "in.json").write_text(json.dumps({"inputs": ecg_NLT.tolist()}))
    command = [
        "models",
        "predict",
        "-m",
        model,
        "-i",
        "in.json",
        "-o",
        "out.json",
        "-t",
        "json",
        "--env-manager",
        "local",
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run(
        [str(Path(sys.executable).with_name("mlflow")), *map(str, command)],
        cwd=folder,
        check=True,
        capture_output=True,
        timeout=120,
        env={**environment, "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    return np.array([list(row.values()) for row in json.loads((folder / "out.json").read_text())["predictions"]])


def test_mlflow_models_predict_takes_raw_mv_though_the_run_filters(
    small_run: SmallRun, ecg_NLT: NDArray[np.float32], tmp_path: Path
) -> None:
    trained = read_trained_model(small_run.folder)
    save_mlflow_model(trained, tmp_path / "model")
    given_NLT = ecg_NLT[:3].copy()
    given_NLT[2, :, 100:] = 0  # a short record
    expected_NK = build_predictor(trained).predict([given_NLT[0], given_NLT[1], given_NLT[2, :, :100]])
    np.testing.assert_allclose(mlflow_predict(tmp_path / "model", given_NLT, tmp_path), expected_NK, atol=1e-4)
    requirements = (tmp_path / "model" / "requirements.txt").read_text()
    assert "scipy" in requirements and "torch" not in requirements


def test_without_filters_the_mlflow_model_is_an_onnx_file_and_forty_lines(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_store(tmp_path), [{"zscore": {"per": "record"}}], epochs=1)
    trained = read_trained_model(run.folder)
    save_mlflow_model(trained, tmp_path / "model")
    assert [path.name for path in (tmp_path / "model" / "code").iterdir()] == ["pyfunc.py"]
    requirements = (tmp_path / "model" / "requirements.txt").read_text()
    assert "scipy" not in requirements and "pydantic" not in requirements

    import mlflow.pyfunc

    (shard, *_) = read_manifest(run.store).shards
    ecg_NLT = read_shard(run.store, shard).ecg_NLT[:5]
    answers = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(ecg_NLT)
    assert tuple(answers.columns) == trained.card.data.label_set.names
    np.testing.assert_allclose(answers.to_numpy(), build_predictor(trained).predict(list(ecg_NLT)), atol=1e-5)
