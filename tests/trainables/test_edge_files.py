"""Files for small devices: one record at a time, in one piece, as good as the model on the validation fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from data.dataset import Dataset, Task
from tests.trainables.tiny_dataset import N_LEADS, tiny_dataset
from trainables import edge_files
from trainables.atml import AtmlConfig, build_model, train
from trainables.edge_files import EdgeFile, calibration_windows, smallest, write_edge_files
from trainables.plain_trial import PlainTrial
from trainables.thresholds import Floats

NAMES = ["model_fp32.onnx", "model_int8_qdq.onnx", "model_int8_qoperator.onnx"]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return tiny_dataset(n_train=200, n_timesteps=128)


@pytest.fixture(scope="module")
def config() -> AtmlConfig:
    return AtmlConfig(model="OptimizedAFNet", epochs=6, batch_size=16, lr=1e-2, dropout=0.0)


@pytest.fixture(scope="module")
def trained(dataset: Dataset, config: AtmlConfig, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    trial = PlainTrial(3, tmp_path_factory.mktemp("trial"))
    train(config, dataset, trial)
    model, state = build_model(config, dataset.signal, dataset.label_set), trial.restore()
    assert state is not None
    model.load_state_dict(state["model"])
    return model


def half(n_outputs: int = 1) -> Floats:
    return torch.full((n_outputs,), 0.5).double().numpy()


@pytest.fixture(scope="module")
def files(
    trained: nn.Module, dataset: Dataset, config: AtmlConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EdgeFile, ...]:
    return write_edge_files(trained, config, dataset, half(), tmp_path_factory.mktemp("edge"))


def test_every_file_is_in_one_piece_for_one_record_and_without_notes(files: tuple[EdgeFile, ...]) -> None:
    assert [file.path.name for file in files] == NAMES
    assert sorted(path.name for path in files[0].path.parent.iterdir()) == sorted(NAMES)
    for file in files:
        model = onnx.load(file.path, load_external_data=False)
        shape = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
        assert shape == [1, N_LEADS, 128]
        assert not any(tensor.external_data for tensor in model.graph.initializer)
        assert not model.graph.value_info
        parts: list[Any] = [model, model.graph, *model.graph.node, *model.graph.initializer]
        assert not any(part.doc_string for part in parts)
        assert not any(node.metadata_props for node in model.graph.node)


def test_every_file_is_as_good_as_the_model_on_validation(files: tuple[EdgeFile, ...]) -> None:
    exact, *int8 = files
    assert exact.difference < 1e-5
    assert exact.scores["auroc"] > 0.95
    for file in int8:
        assert 0 < file.difference < 0.2
        assert file.scores["auroc"] == pytest.approx(exact.scores["auroc"], abs=0.02)


def test_the_smallest_file_of_a_tiny_network_has_integer_operators_and_qdq_makes_it_larger(
    files: tuple[EdgeFile, ...],
) -> None:
    """Of some 3,000 parameters; from some 5,000 on QDQ too is smaller than float32."""
    sizes = {file.path.name: file.size_bytes for file in files}
    assert smallest(files).path.name == "model_int8_qoperator.onnx"
    assert sizes["model_int8_qdq.onnx"] > sizes["model_fp32.onnx"]


@pytest.mark.parametrize(
    ("task", "params"), [("regression", {}), ("multiclass", {"crop_timesteps": 64, "window_stride": 32})]
)
def test_it_works_for_other_tasks_and_for_windows(task: Task, params: dict[str, Any], tmp_path: Path) -> None:
    dataset = tiny_dataset(task, n_train=20, n_val=10, n_timesteps=128)
    config = AtmlConfig.model_validate({"model": "SimpleCNN", **params})
    model = build_model(config, dataset.signal, dataset.label_set)
    files = write_edge_files(model, config, dataset, half(dataset.label_set.n_outputs), tmp_path)
    assert files[0].difference < 1e-3
    assert files[0].scores


def test_calibration_takes_records_from_all_over_the_training_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_files, "N_CALIBRATION", 3)
    dataset = tiny_dataset(n_train=9)
    windows = list(calibration_windows(dataset.train, AtmlConfig()))
    expected = [batch.ecg_BLT for number, batch in enumerate(dataset.train.batches(1)) if number in (0, 4, 8)]
    assert [window.tolist() for window in windows] == [ecg.tolist() for ecg in expected]


def test_a_file_that_does_not_answer_as_the_model_is_refused(
    trained: nn.Module, dataset: Dataset, config: AtmlConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_files, "TOLERANCE", 0.0)
    with pytest.raises(ArithmeticError, match="differs from PyTorch"):
        write_edge_files(trained, config, dataset, half(), tmp_path)
