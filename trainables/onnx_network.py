"""An ONNX file in the place of a PyTorch network."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """Runs a file of `trainables.onnx_export.export_onnx` on the CPU: ecg_BLT -> logits_BK.

    Args:
        n_threads: of one run; 0: as many as there are cores.
    """

    def __init__(self, path: Path, n_threads: int = 0) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        (logits_BK,) = self._session.run(["logits"], {"ecg": ecg_BLT.cpu().numpy()})
        return torch.from_numpy(logits_BK)
