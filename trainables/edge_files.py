"""A model's files for small devices: ONNX in float32 and int8 for one record at a time, tried on the validation fold.

A file takes one preprocessed window, `ecg` (1, leads, timesteps), and answers with `logits` (1, outputs).
L: leads, T: timesteps, K: outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
from numpy.typing import NDArray
from torch import nn

from data.dataset import Dataset, Split
from trainables.checkpoint import write_whole
from trainables.config import TrainConfig
from trainables.evaluation import evaluate
from trainables.onnx_export import serialise
from trainables.onnx_network import OnnxNetwork
from trainables.quantisation import Format, quantise
from trainables.thresholds import Floats
from trainables.windows import tile, window_signal

FLOAT_FILE: Final = "model_fp32.onnx"
INT8_FILES: Final[Mapping[Format, str]] = {form: f"model_int8_{form}.onnx" for form in get_args(Format)}
N_CALIBRATION: Final = 256  # records of the training folds
TOLERANCE: Final = 1e-3  # of probabilities, float32 against PyTorch; of values, times their largest


@dataclass(frozen=True)
class EdgeFile:
    """A file, and how its answers on the validation fold compare.

    Attributes:
        scores: macro metrics, at the model's thresholds.
        difference: of probabilities (or values) from PyTorch's, the largest.
    """

    path: Path
    size_bytes: int
    scores: Mapping[str, float]
    difference: float


def write_edge_files(
    model: nn.Module, config: TrainConfig, dataset: Dataset, thresholds_K: Floats, folder: Path
) -> tuple[EdgeFile, ...]:
    """Write the float32 file and the two int8 ones, calibrated on training records, and try each on validation.

    Raises:
        ArithmeticError: the float32 file does not answer as PyTorch does.
        ValueError: the model has no layer to quantise.
    """
    signal = window_signal(config, dataset.signal)
    folder.mkdir(exist_ok=True)
    exact = folder / FLOAT_FILE
    model = model.to("cpu").eval()
    write_whole(exact, lambda path: path.write_bytes(serialise(model, signal, fixed_batch=True)))
    for form, name in INT8_FILES.items():
        quantise(exact, calibration_windows(dataset.train, config), folder / name, form)
    trial = _Trial(config, dataset, thresholds_K)
    expected_NK = trial.answers(model, batch_size=256)[0]
    files = tuple(trial.of_file(folder / name, expected_NK) for name in (FLOAT_FILE, *INT8_FILES.values()))
    allowed = TOLERANCE * max(1.0, float(np.abs(expected_NK).max()))
    if not files[0].difference <= allowed:
        raise ArithmeticError(f"{exact} differs from PyTorch by {files[0].difference:.2e}, more than {allowed:g}")
    return files


def smallest(files: Sequence[EdgeFile]) -> EdgeFile:
    """Return the smallest file; the first of equals."""
    return min(files, key=lambda file: file.size_bytes)


def calibration_windows(train: Split, config: TrainConfig) -> Iterator[NDArray[np.float32]]:
    """Yield the first window, ecg_1LT, of at most 256 records spread evenly over the training folds."""
    wanted = set(np.linspace(0, train.n_records - 1, min(N_CALIBRATION, train.n_records)).astype(int).tolist())
    for number, batch in enumerate(train.batches(1)):
        if number in wanted:
            _, ecg_1LT = next(tile(batch, config))
            yield ecg_1LT


@dataclass(frozen=True)
class _Trial:
    """Tries networks on the validation fold."""

    config: TrainConfig
    dataset: Dataset
    thresholds_K: Floats

    def answers(self, network: nn.Module, batch_size: int) -> tuple[Floats, Mapping[str, float]]:
        # The files compute in float32, whatever the training did.
        config = self.config.model_copy(update={"precision": "fp32"})
        result = evaluate(
            network, self.dataset.val, config, self.dataset.label_set, self.thresholds_K, batch_size=batch_size
        )
        return result.predicted_NK, result.scores.macro

    def of_file(self, path: Path, expected_NK: Floats) -> EdgeFile:
        answers_NK, scores = self.answers(OnnxNetwork(path, n_threads=1), batch_size=1)
        return EdgeFile(path, path.stat().st_size, scores, float(np.abs(answers_NK - expected_NK).max()))
