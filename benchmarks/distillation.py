"""What distillation saves at inference: `python -m benchmarks.distillation`.

Milliseconds of one record of 12 leads x 6,144 timesteps through onnxruntime, on one thread at batch 1, of
AdaGrad-Fusion's teacher (`size: medium`) and student (`size: tinylight`), and the sizes of their files. The networks
are untrained: weights have no effect on the time. The two take turns.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, get_args

import numpy as np
import torch

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.dataset import LabelSet, Signal
from data.leads import LEADS_12
from trainables.conv_transformer import Size
from trainables.fusion_network import NetworkConfig, build_network
from trainables.onnx_export import export_onnx
from trainables.onnx_network import OnnxNetwork

LEAST_RATIO: Final = 4.5  # H-Tuning's abstract: latency divided by 4.52
SIGNAL: Final = Signal(LEADS_12, 500.0, 6144)
LABEL_SET: Final = LabelSet("g12ec", "multilabel", tuple(f"label{k}" for k in range(18)))
WARM_UP_RUNS: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    machine = read_machine()
    sizes: tuple[Size, Size] = (options.teacher, options.student)
    with tempfile.TemporaryDirectory(prefix="distillation-") as folder:
        files = {f"{size}.onnx": export(size, Path(folder)) for size in sizes}
        networks = {name: OnnxNetwork(path, n_threads=1) for name, path in files.items()}
        bytes_ = {name: path.stat().st_size for name, path in files.items()}
        times_ms = measure(networks, options.repeats)
    teacher, student = (Figure(f"{name}, a record", "ms", times) for name, times in times_ms.items())
    ratios = tuple(slow / fast for slow, fast in zip(teacher.values, student.values, strict=True))
    ratio = Figure("teacher / student, latency", "", ratios)
    weights = tuple(Figure(f"{name}, size", "MB", (size / 1e6,)) for name, size in bytes_.items())
    title = f"{sizes[0]} and {sizes[1]}, 12 x 6,144, onnxruntime at batch 1, one thread"
    return conclude(
        Result(title, machine, (teacher, student, ratio, *weights), (Bar(ratio, ">=", LEAST_RATIO),)), options
    )


def export(size: Size, folder: Path) -> Path:
    """Write an untrained network of `size` as ONNX, and return its file."""
    torch.manual_seed(0)
    path = folder / f"{size}.onnx"
    export_onnx(build_network(NetworkConfig(size=size), SIGNAL, LABEL_SET), SIGNAL, path)
    return path


def measure(networks: Mapping[str, OnnxNetwork], repeats: int) -> dict[str, tuple[float, ...]]:
    """Return the milliseconds of each network's runs, taken in turns."""
    ecg_BLT = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 12, SIGNAL.n_timesteps), np.float32))
    times_ms: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(WARM_UP_RUNS + repeats):
        for name, network in networks.items():
            begin_s = time.perf_counter()
            network(ecg_BLT)
            if turn >= WARM_UP_RUNS:
                times_ms[name].append(1000 * (time.perf_counter() - begin_s))
    return {name: tuple(times) for name, times in times_ms.items()}


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distillation", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=30, help="runs of each network (default: 30)")
    parser.add_argument("--teacher", choices=get_args(Size), default="medium", help="its size (default: medium)")
    parser.add_argument("--student", choices=get_args(Size), default="tinylight", help="its size (default: tinylight)")
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        parser.error(f"--repeats >= 1 must hold, got {options.repeats}")
    if options.teacher == options.student:
        parser.error(f"--teacher and --student must differ, got {options.teacher} for both")
    return options


if __name__ == "__main__":
    sys.exit(main())
