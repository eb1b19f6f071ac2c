"""How fast a trained model answers: `python -m benchmarks.predict`.

Records/s from 12 leads x 1,000 timesteps in mV to probabilities, on one thread, at batch sizes 1, 16 and 256, of the
ways that this platform offers: PyTorch and onnxruntime behind the run's own preprocessing (`platform.predict`, without
and with `--onnx`), and the exported file with the normalisation inside, in float32 and int8 (`platform.export`). The
network is an untrained xresnet1d18: weights have no effect on the time. The ways take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.card import DataCard
from data.config import DataConfig
from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from data.preprocessing import output_signal
from trainables.deployed_onnx import DeployedOnnx, ecg_like, export_deployed
from trainables.methods import METHODS
from trainables.onnx_export import export_onnx
from trainables.onnx_network import OnnxNetwork
from trainables.predictor import Predictor
from trainables.quantisation import quantise
from trainables.windows import window_signal

BATCH_SIZES: Final = (1, 16, 256)
LEAST_RATIO: Final = 1.0  # of onnxruntime to PyTorch, one record at a time
SIGNAL: Final = Signal(LEADS_12, 100.0, 1000)
PREPROCESS: Final = ({"zscore": {"per": "lead"}},)
PYTORCH, ONNX, FILE, INT8 = "PyTorch", "onnxruntime", "exported file", "exported file, int8"

Way = Callable[[NDArray[np.float32]], object]
"""Answers one batch ecg_BLT in mV."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    # OMP_NUM_THREADS comes too late here; the ONNX sessions are told below.
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="predict-") as folder:
        ways = build_ways(build_predictor(options.model), Path(folder))
        figures = [figure for size in BATCH_SIZES for figure in measure(ways, size, options)]
    ratio = _ratio(figures, 1)
    bars = (Bar(ratio, ">=", LEAST_RATIO),)
    title = f"{options.model}, 12 x 1,000 in mV to probabilities, one thread"
    return conclude(Result(title, machine, (*figures, ratio), bars), options)


def build_predictor(model: str) -> Predictor:
    """Build a network for 5 labels, and the card of its data."""
    config = DataConfig.model_validate({"store": "none", "preprocess": PREPROCESS})
    label_set = LabelSet("five", "multilabel", ("a", "b", "c", "d", "e"))
    card = DataCard(
        config=config,
        fingerprint="",
        folds={},
        input_signal=SIGNAL,
        statistics=None,
        signal=output_signal(config.preprocess, SIGNAL),
        label_set=label_set,
    )
    method = METHODS["supervised"]
    parsed = method.parse_config({"model": model})
    torch.manual_seed(0)
    return Predictor(method.build_model(parsed, card.signal, label_set).eval(), parsed, card)


def build_ways(predictor: Predictor, folder: Path) -> Mapping[str, Way]:
    """Write the files, and return each way to answer a batch."""
    network, exact, rounded = folder / "model.onnx", folder / "deployed.onnx", folder / "int8.onnx"
    export_onnx(predictor.network, window_signal(predictor.config, predictor.data.signal), network)
    export_deployed(predictor, {}, exact)
    quantise(exact, [ecg_like(SIGNAL, 32)], rounded)
    by_onnx = Predictor(OnnxNetwork(network, n_threads=1), predictor.config, predictor.data)
    return {
        PYTORCH: lambda ecg_BLT: predictor.predict(list(ecg_BLT), len(ecg_BLT)),
        ONNX: lambda ecg_BLT: by_onnx.predict(list(ecg_BLT), len(ecg_BLT)),
        FILE: DeployedOnnx(exact, n_threads=1).answer,
        INT8: DeployedOnnx(rounded, n_threads=1).answer,
    }


def measure(ways: Mapping[str, Way], batch_size: int, options: argparse.Namespace) -> list[Figure]:
    """Return records/s of every way at one batch size."""
    ecg_BLT = np.resize(ecg_like(SIGNAL, 64), (batch_size, 12, 1000))
    for way in ways.values():
        way(ecg_BLT)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            rates[name].append(batch_size * _calls_per_s(way, ecg_BLT, options.seconds))
    return [Figure(f"{name}, batch {batch_size}", "records/s", tuple(values)) for name, values in rates.items()]


def _calls_per_s(way: Way, ecg_BLT: NDArray[np.float32], at_least_s: float) -> float:
    begin_s, n_calls = time.perf_counter(), 0
    while (taken_s := time.perf_counter() - begin_s) < at_least_s or not n_calls:
        way(ecg_BLT)
        n_calls += 1
    return n_calls / taken_s


def _ratio(figures: Sequence[Figure], batch_size: int) -> Figure:
    known = {figure.name: figure.values for figure in figures}
    pairs = zip(known[f"{ONNX}, batch {batch_size}"], known[f"{PYTORCH}, batch {batch_size}"], strict=True)
    return Figure(f"{ONNX} / {PYTORCH}, batch {batch_size}", "", tuple(ours / theirs for ours, theirs in pairs))


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predict", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each way (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn, at least (default: 1)")
    parser.add_argument("--model", default="xresnet1d18", help="network of `method: supervised` (default: xresnet1d18)")
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.seconds <= 0:
        parser.error(f"--repeats >= 1 and --seconds > 0 must hold, got {options.repeats} and {options.seconds:g}")
    return options


if __name__ == "__main__":
    sys.exit(main())
