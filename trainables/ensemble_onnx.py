"""An ensemble as one ONNX file that takes mV, and what it costs.

The weighted mean of the members' answers is inside the graph, and each member's last preprocessing steps, windows and
pooling with it (`trainables.deployed_model`). What all members prepare in the same way onnxruntime computes once.

B: records, K: outputs, L: leads, T: timesteps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from pydantic import BaseModel, ConfigDict

from data.preprocessing import preprocess
from trainables.checkpoint import write_whole
from trainables.deployed_model import DeployedModel, cut_chain
from trainables.deployed_onnx import ANSWERS, TOLERANCE, DeployedOnnx, Difference, ecg_like, metadata
from trainables.ensemble import MeanAnswer, mean_prediction
from trainables.onnx_export import CHECKED_BATCHES, serialise
from trainables.predictor import Predictor, cut

MAX_ONNX_BYTES = 2**31 - 1  # of weights in a single file: the limit of protobuf
TIMED_S, MIN_TIMED_RUNS = 0.2, 5


class Cost(BaseModel):
    """What an ensemble, or a model alone, takes to answer.

    Attributes:
        onnx_bytes: of the file that takes mV; None: larger than an ONNX file can be.
        ms_a_record: median time of onnxruntime with one thread, a record at a time; None without a file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: int
    parameters: int
    onnx_bytes: int | None
    ms_a_record: float | None


def serialise_ensemble(members: Sequence[Predictor], weights: Sequence[float], notes: Mapping[str, str]) -> bytes:
    """Return the ensemble as ONNX; `notes` joins the metadata of `trainables.deployed_onnx`.

    All members must have been trained on the same data, prepared alike.
    """
    deployed = [DeployedModel(member.network.to("cpu"), member.config, member.data) for member in members]
    ensemble = MeanAnswer(deployed, weights).eval()
    model = onnx.load_model_from_string(serialise(ensemble, deployed[0].signal, ANSWERS))
    onnx.helper.set_model_props(model, {**metadata(deployed[0], members[0].data), **notes})
    content: bytes = model.SerializeToString()
    return content


def cost(members: Sequence[Predictor], content: bytes | None) -> Cost:
    """Measure an ensemble; `content` is its ONNX file, None where there can be none."""
    return Cost(
        members=len(members),
        parameters=sum(parameter.numel() for member in members for parameter in member.network.parameters()),
        onnx_bytes=None if content is None else len(content),
        ms_a_record=None if content is None else _ms_a_record(content, members[0]),
    )


def fits_one_file(members: Sequence[Predictor]) -> bool:
    """Return whether an ONNX file can hold the weights of all members."""
    tensors = (tensor for member in members for tensor in member.network.state_dict().values())
    n_bytes: int = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return n_bytes < MAX_ONNX_BYTES


def _ms_a_record(content: bytes, member: Predictor) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    signal = DeployedModel(member.network, member.config, member.data).signal
    ecg_BLT = ecg_like(signal, 1)
    session.run([ANSWERS], {"ecg": ecg_BLT})  # the first run allocates
    durations_s: list[float] = []
    while len(durations_s) < MIN_TIMED_RUNS or sum(durations_s) < TIMED_S:
        start_s = time.perf_counter()
        session.run([ANSWERS], {"ecg": ecg_BLT})
        durations_s.append(time.perf_counter() - start_s)
    return 1000 * float(np.median(durations_s))


def write_ensemble(path: Path, content: bytes, members: Sequence[Predictor], weights: Sequence[float]) -> Difference:
    """Write the file, and compare it with the run's own preprocessing and PyTorch, in batches of 1 and 5.

    The ECGs are synthetic, in mV; the last record of 5 is padded.
    """
    write_whole(path, lambda temporary: temporary.write_bytes(content))
    # The file computes in fp32, whatever the training did.
    exact = [replace(m, config=m.config.model_copy(update={"precision": "fp32"})) for m in members]
    data, session = members[0].data, DeployedOnnx(path)
    before = cut_chain(data.preprocess).before
    largest, scale = 0.0, 1.0
    for n_records in CHECKED_BATCHES:
        records = list(ecg_like(data.input_signal, n_records))
        if n_records > 1:
            records[-1] = records[-1][:, : -(-data.input_signal.n_timesteps * 3 // 4)]
        pieces = cut(records, data.input_signal)
        expected_BK = mean_prediction([member.predict(records) for member in exact], weights)
        answers_BK = session.answer(preprocess(pieces.ecg_PLT, before, data.input_signal, pieces.length_P))
        largest = max(largest, float(np.abs(answers_BK - expected_BK).max()))
        scale = max(scale, float(np.abs(expected_BK).max()))
    return Difference(largest, TOLERANCE * scale)
