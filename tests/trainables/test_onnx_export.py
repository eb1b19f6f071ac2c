"""ONNX files: one file, any batch size, PyTorch's answers, and a size known before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.trainables.tiny_dataset import LABEL_SETS, tiny_dataset
from trainables import onnx_export
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx, onnx_bytes, static_quantities, why_not_exportable
from trainables.plain_trial import PlainTrial
from trainables.supervised import SupervisedConfig, build_model, train
from trainables.windows import window_signal

SIGNAL = tiny_dataset().signal
SUPERVISED = METHODS["supervised"]
MODELS = ["xresnet1d18", "xresnet1d50", "inception1d", "resnet1d_wang", "fcn_wang", "lstm_bidir", "cnn"]


def quantities(label_set: Any = LABEL_SETS["multilabel"], **params: Any) -> dict[str, float]:
    return static_quantities(SUPERVISED, SupervisedConfig(**params), SIGNAL, label_set)


@pytest.mark.parametrize("model", MODELS)
def test_the_file_answers_as_pytorch_does_and_has_the_size_foretold(tmp_path: Path, model: Any) -> None:
    config = SupervisedConfig(model=model, epochs=1, batch_size=32)
    dataset = tiny_dataset("multilabel", n_train=32, n_val=8)
    trial = PlainTrial(seed=1, folder=tmp_path)
    train(config, dataset, trial)
    state = trial.restore()
    assert state is not None
    network = build_model(config, dataset.signal, dataset.label_set)
    network.load_state_dict(state["model"])
    path = tmp_path / "model.onnx"
    assert export_onnx(network, dataset.signal, path) < 1e-4
    assert path.stat().st_size == quantities(model=model)["onnx_bytes"]
    assert trial.reports[1]["parameters"] == quantities(model=model)["parameters"]


def test_a_padded_window_is_standardised_in_the_file_as_in_pytorch(tmp_path: Path) -> None:
    signal = replace(SIGNAL, standardise_windows=True)
    network = build_model(SupervisedConfig(model="cnn"), signal, LABEL_SETS["binary"]).eval()
    export_onnx(network, signal, tmp_path / "model.onnx")
    ecg = next(tiny_dataset().val.batches(4)).ecg_BLT
    ecg[:, :, 40:] = 0
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"ecg": ecg})
    with torch.inference_mode():
        assert logits == pytest.approx(network(torch.from_numpy(ecg)).numpy(), abs=1e-5)


def test_the_file_is_one_valid_file_with_a_free_batch(tmp_path: Path) -> None:
    network = build_model(SupervisedConfig(model="cnn"), SIGNAL, LABEL_SETS["binary"])
    export_onnx(network, SIGNAL, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    loaded = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    dimensions = loaded.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dimensions] == ["batch", 3, 64]
    assert not any(tensor.external_data for tensor in loaded.graph.initializer)
    assert not any(node.doc_string or node.metadata_props for node in loaded.graph.node)
    assert not loaded.graph.value_info


def test_a_model_trained_on_crops_takes_one_window(tmp_path: Path) -> None:
    config = SupervisedConfig(model="cnn", crop_timesteps=32)
    network = build_model(config, SIGNAL, LABEL_SETS["binary"])
    export_onnx(network, window_signal(config, SIGNAL), tmp_path / "model.onnx")
    loaded = onnx.load(tmp_path / "model.onnx")
    assert loaded.graph.input[0].type.tensor_type.shape.dim[2].dim_value == 32


def test_regression_writes_the_targets_units_into_the_file(tmp_path: Path) -> None:
    config = SupervisedConfig(model="cnn", epochs=2, batch_size=16)
    dataset = tiny_dataset("regression", n_train=32, n_val=8)
    network = build_model(config, dataset.signal, dataset.label_set)
    from trainables.trainer import fit

    fit(network, config, dataset, PlainTrial(seed=1))
    assert export_onnx(network, dataset.signal, tmp_path / "model.onnx") < 1e-2  # of about 600 ms


def test_the_size_of_an_untrained_model_is_not_made_small_by_equal_weights() -> None:
    network = build_model(SupervisedConfig(model="cnn"), SIGNAL, LABEL_SETS["binary"])
    n_weights = sum(p.numel() for p in network.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert onnx_bytes(network, SIGNAL) > 4 * (n_weights - 4 * 32)  # batch norm's scales are folded away


def test_one_structure_is_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = quantities(model="cnn", channels=24, lr=1e-3)
    monkeypatch.setattr(onnx_export, "serialise", None)
    assert quantities(model="cnn", channels=24, lr=1e-2) == first


def test_static_quantities_draw_no_random_numbers() -> None:
    before = torch.get_rng_state()
    quantities(model="cnn", channels=25)
    assert torch.equal(torch.get_rng_state(), before)


class Outside(nn.Module):
    """A layer that no graph can hold, and that says so."""

    not_exported_since = "its filter runs backwards"

    def forward(self, ecg_BLT: torch.Tensor) -> torch.Tensor:
        return ecg_BLT[:, :1, 0]


def test_a_model_with_a_part_that_cannot_be_exported_says_why_and_has_no_size(tmp_path: Path) -> None:
    method = replace(SUPERVISED, build_model=lambda config, signal, label_set: nn.Sequential(Outside()))
    config = SupervisedConfig()
    assert set(static_quantities(method, config, SIGNAL, LABEL_SETS["binary"])) == {
        "parameters", "trainable_parameters"
    }  # fmt: skip
    assert why_not_exportable(method, config, SIGNAL, LABEL_SETS["binary"]) == "its filter runs backwards"
    assert why_not_exportable(SUPERVISED, config, SIGNAL, LABEL_SETS["binary"]) is None
    with pytest.raises(ValueError, match="can't go to ONNX, since its filter runs backwards; use it through PyTorch"):
        export_onnx(nn.Sequential(Outside()), SIGNAL, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_parts_that_configurations_share_are_exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[nn.Module] = []
    serialise = onnx_export.serialise
    monkeypatch.setattr(onnx_export, "_sizes", {})
    monkeypatch.setattr(
        onnx_export, "serialise", lambda model, signal: exported.append(model) or serialise(model, signal)
    )
    method = replace(
        SUPERVISED, onnx_parts=lambda model, signal: [(nn.Flatten(), signal), (nn.Sequential(nn.Flatten()), signal)]
    )
    sizes = [
        static_quantities(method, SupervisedConfig(model="cnn", channels=channels), SIGNAL, LABEL_SETS["binary"])
        for channels in (8, 16)
    ]
    assert sizes[0]["onnx_bytes"] == sizes[1]["onnx_bytes"] > 0
    assert len(exported) == 2
