"""ONNX files of models, and their size before training.

Exports go through torch's TorchScript exporter: it folds batch norm into the convolutions, and takes 25 ms for a
small network where `dynamo=True` takes 1 s (torch 2.13, one core) and writes half as much again.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from data.dataset import LabelSet, Signal
from trainables.checkpoint import write_whole
from trainables.method import Method
from trainables.windows import window_signal

OPSET = 17
CHECKED_BATCHES = (1, 5)

_sizes: dict[tuple[str, ...], int] = {}  # of models already exported in this process, by structure


def export_onnx(model: nn.Module, signal: Signal, path: Path) -> float:
    """Write `model` as a single ONNX file with a free batch size, and check it with onnxruntime.

    Args:
        signal: the shape of the model's input; of a model trained on crops, `windows.window_signal`'s.

    Returns:
        The largest absolute difference of the logits from PyTorch's, at batches of 1 and 5.
    """
    model = model.to("cpu").eval()
    write_whole(path, lambda temporary: temporary.write_bytes(serialise(model, signal)))
    return _largest_difference(model, signal, path)


def onnx_bytes(model: nn.Module, signal: Signal) -> int:
    """Return the size of the model's ONNX file, from an export in memory.

    `model` may lie on the meta device, and its weights do not matter: the export has weights of its own, all
    different, since the exporter stores equal tensors once and an untrained model would seem too small.
    """
    structure = _structure(model, signal)
    if structure not in _sizes:
        model = model.to_empty(device="cpu").eval()
        _fill(model)
        _sizes[structure] = len(serialise(model, signal))
    return _sizes[structure]


def why_not_exported(model: nn.Module) -> str | None:
    """Return why `model` can't go to ONNX, as a part of it says by `not_exported_since`; None: it can."""
    reasons = (getattr(module, "not_exported_since", None) for module in model.modules())
    return next((str(reason) for reason in reasons if reason is not None), None)


def why_not_exportable(method: Method, config: Any, signal: Signal, label_set: LabelSet) -> str | None:
    """Return why models of a configuration can't go to ONNX; None: they can."""
    with torch.device("meta"):
        return why_not_exported(method.build_model(config, signal, label_set))


def static_quantities(method: Method, config: Any, signal: Signal, label_set: LabelSet) -> dict[str, float]:
    """Return what is known of a configuration before training: `parameters`, `trainable_parameters`, `onnx_bytes`.

    The model is built without memory or random numbers; an export costs 0.02 to 1 s once a structure. A model that
    can't go to ONNX has no `onnx_bytes`.
    """
    with torch.device("meta"):
        model = method.build_model(config, signal, label_set)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    quantities: dict[str, float] = {
        "parameters": sum(size for size, _ in sizes),
        "trainable_parameters": sum(size for size, is_trained in sizes if is_trained),
    }
    if why_not_exported(model) is not None:
        return quantities
    seen = window_signal(config, signal)
    parts = method.onnx_parts(method.finish(model), seen)
    return {**quantities, "onnx_bytes": sum(onnx_bytes(part, of_part) for part, of_part in parts)}


def _structure(model: nn.Module, signal: Signal) -> tuple[str, ...]:
    shapes = [f"{name}{tuple(tensor.shape)}{tensor.dtype}" for name, tensor in model.state_dict().items()]
    return (str(model), str(signal.n_timesteps), *shapes)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.zero_()


def serialise(model: nn.Module, signal: Signal, output_name: str = "logits", *, fixed_batch: bool = False) -> bytes:
    """Return `model`, which is on the CPU and evaluates, as ONNX: input `ecg` of `signal`'s shape.

    All of it is in one piece: no weights beside it, and no notes (see `strip_notes`).

    Args:
        fixed_batch: one record at a time, as on a small device; otherwise the batch is free.

    Raises:
        ValueError: a part of the model can't go to ONNX.
    """
    reason = why_not_exported(model)
    if reason is not None:
        raise ValueError(f"the model can't go to ONNX, since {reason}; use it through PyTorch, or leave that part out")
    n_records = 1 if fixed_batch else 2  # where it is free, 1 may be taken for fixed
    example_BLT = torch.zeros(n_records, len(signal.lead_names), signal.n_timesteps)
    file: IO[bytes] = io.BytesIO()
    with warnings.catch_warnings():
        # The TorchScript exporter announces its successor on each call; the reason to stay is at the top.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx|trainables")
        # LSTMs, layer norm and attention check shapes, which cannot be traced; a fixed batch is feared, two are tried.
        # The periods of a trained TimesNet are numbers.
        shape_checks = r"(torch\.nn\.(modules\.rnn|functional)|transformers\.integrations\.sdpa_attention)"
        constants = rf"{shape_checks}|trainables\.experts\.timesnet"
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning, module=constants)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size other than 1", UserWarning)
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)  # attention reads its scale
        torch.onnx.export(
            model,
            (example_BLT,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["ecg"],
            output_names=[output_name],
            dynamic_axes=None if fixed_batch else {"ecg": {0: "batch"}, output_name: {0: "batch"}},
        )
    file.seek(0)
    return file.read()


def strip_notes(model: onnx.ModelProto) -> None:
    """Take out what no runtime needs: doc strings, the nodes' metadata, and shapes of what lies between nodes."""
    del model.graph.value_info[:]
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        part.ClearField("doc_string")
    for node in model.graph.node:
        del node.metadata_props[:]


def _largest_difference(model: nn.Module, signal: Signal, path: Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    differences = []
    for n_records in CHECKED_BATCHES:
        ecg_BLT = rng.standard_normal((n_records, len(signal.lead_names), signal.n_timesteps), dtype=np.float32)
        with torch.inference_mode():
            expected_BK = model(torch.from_numpy(ecg_BLT)).numpy()
        (logits_BK,) = session.run(["logits"], {"ecg": ecg_BLT})
        assert logits_BK.shape == expected_BK.shape
        differences.append(float(np.abs(logits_BK - expected_BK).max()))
    return max(differences)
