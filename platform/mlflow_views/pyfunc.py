"""The code of the MLflow model of a sweep's best trial. MLflow copies this file into the model, and imports the copy.

So it imports nothing of the project; where the run filters or resamples, a copy of the preprocessing steps (`data/`)
lies beside the copy.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray


class EcgModel:
    """ECGs in mV (records, leads, timesteps), as the run's store holds them, to a column a label.

    Args:
        path: the ONNX file; its metadata say what to do before it, and what its answers are.
    """

    def __init__(self, path: str) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        known = self._session.get_modelmeta().custom_metadata_map
        self._labels = json.loads(known["label_names"])
        self._steps, self._signal = json.loads(known["steps_before"]), json.loads(known["signal_before"])

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Return probabilities, or values in units. Zeros at the end of all leads are padding."""
        ecg_BLT = np.asarray(model_input, np.float32)
        (answers_BK,) = self._session.run(None, {"ecg": self._preprocess(ecg_BLT) if self._steps else ecg_BLT})
        return pd.DataFrame(answers_BK, columns=self._labels)

    def _preprocess(self, ecg_BLT: NDArray[np.float32]) -> NDArray[np.float32]:
        from data.dataset import Signal  # the copies
        from data.preprocessing import Step, preprocess

        signal = Signal(**{**self._signal, "lead_names": tuple(self._signal["lead_names"])})
        is_signal_BT = (ecg_BLT != 0).any(axis=1)
        length_B = ecg_BLT.shape[2] - is_signal_BT[:, ::-1].argmax(axis=1)  # argmax of nothing is 0: the whole record
        steps = [Step.model_validate(step) for step in self._steps]
        return preprocess(ecg_BLT, steps, signal, length_B.astype(np.int32))


def _load_pyfunc(path: str) -> EcgModel:
    """Return the model; what MLflow calls."""
    return EcgModel(path)
