"""A deployed model as one ONNX file: what it is fed, what it answers, and what must be done before, in its metadata.

B: records, L: leads, T: timesteps, K: outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from data.card import DataCard
from data.dataset import Signal
from data.preprocessing import preprocess
from data.synthetic import SyntheticConfig, SyntheticReader
from trainables.checkpoint import write_whole
from trainables.deployed_model import DeployedModel, cut_chain
from trainables.metrics import Floats
from trainables.onnx_export import CHECKED_BATCHES, serialise
from trainables.predictor import Predictor, cut

ANSWERS = "answers"  # the output's name
TOLERANCE = 1e-3  # of probabilities; of values, times their largest


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference of two ways to answer, and what is still taken for the same."""

    largest: float
    allowed: float


class DeployedOnnx:
    """Runs a file of `export_deployed` on the CPU; `n_threads` of one run: 0 is as many as there are cores."""

    def __init__(self, path: Path, n_threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map

    @property
    def signal(self) -> Signal:
        """What the file takes."""
        lead_names, fs_hz, n_timesteps = (
            json.loads(self.metadata[key]) for key in ("lead_names", "fs_hz", "n_timesteps")
        )
        return Signal(tuple(lead_names), fs_hz, n_timesteps)

    def answer(self, ecg_BLT: NDArray[np.float32]) -> Floats:
        """Return probabilities_BK, or values_BK in the targets' units."""
        (answers_BK,) = self._session.run([ANSWERS], {"ecg": ecg_BLT})
        return np.asarray(answers_BK, np.float64)


def export_deployed(predictor: Predictor, notes: Mapping[str, str], path: Path) -> None:
    """Write the model, with all of its preprocessing that fits, as a single ONNX file with a free batch size.

    Args:
        notes: joins the metadata.
    """
    deployed = DeployedModel(predictor.network.to("cpu"), predictor.config, predictor.data).eval()
    model = onnx.load_model_from_string(serialise(deployed, deployed.signal, ANSWERS))
    onnx.helper.set_model_props(model, {**metadata(deployed, predictor.data), **notes})
    write_whole(path, lambda temporary: temporary.write_bytes(model.SerializeToString()))


def metadata(deployed: DeployedModel, data: DataCard) -> dict[str, str]:
    """Say how to use the file. Values are JSON, but for plain text."""
    signal, label_set = deployed.signal, data.label_set
    fields: dict[str, Any] = {
        "lead_names": signal.lead_names,
        "fs_hz": signal.fs_hz,
        "n_timesteps": signal.n_timesteps,
        "label_names": label_set.names,
        "task": label_set.task,
        "units": label_set.units,
        "steps_before": [step.model_dump(mode="json") for step in deployed.chain.before],
        "signal_before": asdict(data.input_signal),
        "steps_inside": [step.model_dump(mode="json") for step in deployed.chain.inside],
    }
    what = "values in units" if label_set.task == "regression" else "probabilities"
    before = " after steps_before, which the file does not contain" if deployed.chain.before else ""
    usage = (
        f"ecg: float32 (records, leads, timesteps) in mV{before}; a shorter record ends in zeros, which count as "
        f"padding where all leads have them. {ANSWERS}: {what}, in the order of label_names."
    )
    return {"usage": usage, **{name: json.dumps(value) for name, value in fields.items()}}


def check_deployed(predictor: Predictor, path: Path) -> Difference:
    """Compare the file with the run's own preprocessing and PyTorch, on ECGs in mV in batches of 1 and 5.

    The last record of 5 is padded.
    """
    # The file computes in fp32, whatever the training did.
    exact = replace(predictor, config=predictor.config.model_copy(update={"precision": "fp32"}))
    data, session, before = predictor.data, DeployedOnnx(path), cut_chain(predictor.data.preprocess).before
    largest, scale = 0.0, 1.0
    for n_records in CHECKED_BATCHES:
        records = list(ecg_like(data.input_signal, n_records))
        if n_records > 1:
            records[-1] = records[-1][:, : -(-data.input_signal.n_timesteps * 3 // 4)]
        pieces = cut(records, data.input_signal)
        expected_BK = exact.predict(records)
        answers_BK = session.answer(preprocess(pieces.ecg_PLT, before, data.input_signal, pieces.length_P))
        largest = max(largest, float(np.abs(answers_BK - expected_BK).max()))
        scale = max(scale, float(np.abs(expected_BK).max()))
    return Difference(largest, TOLERANCE * scale)


def ecg_like(signal: Signal, n_records: int) -> NDArray[np.float32]:
    """Return ecg_BLT in mV of a signal's shape, from the synthetic generator; leads go round where there are more."""
    reader = SyntheticReader(SyntheticConfig(task="rhythm", n_records=50), blocks_a_chunk=1)
    ecg_NLT = reader.read(reader.chunks()[0]).ecg_NLT[:n_records]
    fs_hz, n_known = reader.header.fs_hz, ecg_NLT.shape[2]
    place_T = np.arange(signal.n_timesteps) / signal.fs_hz * fs_hz % (n_known - 1)
    left_T = place_T.astype(np.intp)
    share_T = place_T - left_T
    wave_NLT = ecg_NLT[..., left_T] * (1 - share_T) + ecg_NLT[..., left_T + 1] * share_T
    return np.asarray(wave_NLT[:, np.arange(len(signal.lead_names)) % ecg_NLT.shape[1]], np.float32)
