"""int8 files are smaller, nearly as good, and say the same of themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.trainables.small_predictor import small_predictor
from trainables.deployed_onnx import DeployedOnnx, ecg_like, export_deployed
from trainables.quantisation import FORMATS, quantise


def test_an_int8_file_is_smaller_and_answers_nearly_alike(tmp_path: Path) -> None:
    predictor = small_predictor([{"zscore": {"per": "lead"}}], channels=96)
    exact, rounded = tmp_path / "exact.onnx", tmp_path / "int8.onnx"
    export_deployed(predictor, {"thresholds": "{}"}, exact)
    ecg_NLT = ecg_like(predictor.data.input_signal, 40)
    assert quantise(exact, [ecg_NLT[:16], ecg_NLT[16:32]], rounded) == 3
    assert rounded.stat().st_size < 0.5 * exact.stat().st_size
    assert DeployedOnnx(rounded).metadata == DeployedOnnx(exact).metadata
    kinds = {initialiser.data_type for initialiser in onnx.load(rounded).graph.initializer}
    assert TensorProto.INT8 in kinds
    exact_NK, rounded_NK = DeployedOnnx(exact).answer(ecg_NLT), DeployedOnnx(rounded).answer(ecg_NLT)
    assert exact_NK.std() > 0.1
    assert 0 < np.abs(exact_NK - rounded_NK).max() < 0.1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exact.onnx", "int8.onnx"]


def test_integer_operators_take_less_than_rounding_around_the_layers(tmp_path: Path) -> None:
    predictor = small_predictor([{"zscore": {"per": "lead"}}], channels=96)
    export_deployed(predictor, {}, tmp_path / "exact.onnx")
    ecg_NLT = ecg_like(predictor.data.input_signal, 16)
    for form in FORMATS:
        quantise(tmp_path / "exact.onnx", [ecg_NLT], tmp_path / f"{form}.onnx", form)
    assert (tmp_path / "qoperator.onnx").stat().st_size < (tmp_path / "qdq.onnx").stat().st_size
    answers = [DeployedOnnx(tmp_path / f"{form}.onnx").answer(ecg_NLT) for form in FORMATS]
    assert np.abs(answers[0] - answers[1]).max() < 0.05


def test_a_file_without_heavy_layers_is_refused(tmp_path: Path) -> None:
    ecg, out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("ecg", "out"))
    graph = helper.make_graph([helper.make_node("Relu", ["ecg"], ["out"])], "g", [ecg], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "relu.onnx")
    with pytest.raises(ValueError, match="no layer of Conv, Gemm, MatMul: nothing to quantise"):
        quantise(tmp_path / "relu.onnx", [], tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()
