"""A trained model through onnxruntime."""

from __future__ import annotations

import tempfile
from pathlib import Path

from platform.models.trained_model import TrainedModel
from trainables.onnx_export import export_onnx
from trainables.onnx_network import OnnxNetwork
from trainables.windows import window_signal

ONNX_NAME = "model.onnx"


def onnx_network(trained: TrainedModel, n_threads: int = 0) -> OnnxNetwork:
    """Return the ONNX file beside the weights, as of a sweep's best trial; of another trial, one made for now.

    Args:
        n_threads: of one run; 0: as many as there are cores.
    """
    file = trained.weights.with_name(ONNX_NAME)
    if file.exists():
        return OnnxNetwork(file, n_threads)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ONNX_NAME
        export_onnx(trained.model, window_signal(trained.config, trained.card.data.signal), file)
        return OnnxNetwork(file, n_threads)
