"""Static quantisation to int8 by onnxruntime: weights and activations of the heavy layers, the rest stays float32.

Weights per channel, ranges of activations by the smallest and largest values of a calibration set. Two formats: QDQ
keeps the layers and puts pairs of nodes that round around them, QOperator has the layers' integer counterparts. Those
pairs weigh more than int8 saves in networks under some 5,000 parameters.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from trainables.checkpoint import write_whole
from trainables.onnx_export import strip_notes

Format = Literal["qdq", "qoperator"]
FORMATS: Mapping[Format, QuantFormat] = {"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}
LAYERS = ("Conv", "Gemm", "MatMul")  # normalisation, windows and pooling stay exact


def quantise(source: Path, calibration: Iterable[NDArray[np.float32]], path: Path, quant_format: Format = "qdq") -> int:
    """Write the ONNX file `source` with int8 layers to `path`, metadata included.

    Args:
        calibration: batches ecg_BLT of what the file will be fed.

    Returns:
        How many layers are quantised.

    Raises:
        ValueError: none can be.
    """
    original = onnx.load(source)
    n_layers = sum(node.op_type in LAYERS for node in original.graph.node)
    if not n_layers:
        raise ValueError(f"{source.name} has no layer of {', '.join(LAYERS)}: nothing to quantise")
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantised,
            _Batches(calibration),
            quant_format=FORMATS[quant_format],
            op_types_to_quantize=[*LAYERS],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantised)
    strip_notes(model)
    onnx.helper.set_model_props(model, {each.key: each.value for each in original.metadata_props})
    write_whole(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))
    return n_layers


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        ecg_BLT = next(self._batches, None)
        return None if ecg_BLT is None else {"ecg": ecg_BLT}
