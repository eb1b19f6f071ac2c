"""Checkpoints of H-Tuning and AdaGrad-Fusion as their authors store them, in the names of our networks.

Theirs differ in five ways: kernels are of 2-D convolutions one lead high, convolutions lie a level deeper, the weights
of `c_attn` and `c_proj` are inputs x outputs, masks and positions are stored, and updates of LoRA (alpha / rank is 1)
lie beside the weights. A LoRA-only checkpoint holds what has lora, bias, bn or norm in its name, and the last layer's
weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from trainables.weight_files import read_state

_NAMES: Final = (  # theirs -> ours, the first that fits
    (r"encoder_layers\.(\d+)\.conv3(?:\.conv)?\.", r"blocks.\1.skip."),
    (r"encoder_layers\.(\d+)\.conv([12])(?:\.conv)?\.", r"blocks.\1.conv\2."),
    (r"encoder_layers\.(\d+)\.bn([12])\.", r"blocks.\1.norm\2."),
    (r"transformer_layers\.(\d+)\.self_attention\.c_attn\.", r"layers.\1.qkv."),
    (r"transformer_layers\.(\d+)\.self_attention\.c_proj\.", r"layers.\1.out."),
    (r"transformer_layers\.(\d+)\.norm([12])\.", r"layers.\1.norm\2."),
    (r"transformer_layers\.(\d+)\.fc([12])\.", r"layers.\1.ffn\2."),
    (r"classifier\.0\.", "head.hidden."),
    (r"classifier\.1\.", "head.classes."),
    (r"auxiliary_classifier\.0\.", "head.auxiliary_hidden."),
    (r"auxiliary_classifier\.2\.", "head.auxiliary_out."),
)
_NOT_LEARNT: Final = re.compile(r"transformer_layers\.\d+\.self_attention\.bias|position_encoding\.positional_encoding")
_INPUTS_FIRST: Final = re.compile(r"layers\.\d+\.(qkv|out)\.weight")
_N_QKV: Final = 3


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        plain: names within `FusionNetwork`, without the body's prefix -> tensor.
        updates: name of a weight -> what LoRA adds to it.
    """

    plain: Mapping[str, Tensor]
    updates: Mapping[str, Tensor] = field(default_factory=dict)


def read_published(path: Path) -> Weights:
    """Read a checkpoint of the original onto the CPU; data only, no code is run (`weights_only`).

    Raises:
        ValueError: it is none.
    """
    stored = read_state(path)
    if not all(isinstance(each, Tensor) for each in stored.values()):
        raise ValueError(f"{path} is not a state dict: names with their tensors; save model.state_dict()")
    return convert(stored, str(path))


def convert(stored: Mapping[str, Tensor], source: str) -> Weights:
    """Bring a state dict of the original into our names and shapes.

    Raises:
        ValueError: a name is not one of the original's network.
    """
    renamed = {
        _rename(name, source): tensor
        for name, tensor in stored.items()
        if not _NOT_LEARNT.fullmatch(name.removeprefix("module."))
    }
    plain = {name: _reshape(name, tensor) for name, tensor in renamed.items() if ".lora_" not in name}
    layers = (name.removesuffix(".lora_A") for name in renamed if name.endswith(".lora_A"))
    return Weights(plain, {f"{layer}.weight": _update(layer, renamed) for layer in layers})


def _rename(name: str, source: str) -> str:
    bare = name.removeprefix("module.")  # of one saved under DistributedDataParallel
    for theirs, ours in _NAMES:
        if re.match(theirs, bare):
            return re.sub(f"^{theirs}", ours, bare)
    raise ValueError(f"{source} has {name!r}, which is no part of H-Tuning's or AdaGrad-Fusion's network")


def _reshape(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        return tensor.squeeze(2)
    return tensor.T.contiguous() if _INPUTS_FIRST.fullmatch(name) else tensor


def _update(layer: str, renamed: Mapping[str, Tensor]) -> Tensor:
    """Return B A in the shape of our weight; q, k and v have updates of their own."""
    a, b = renamed[f"{layer}.lora_A"], renamed[f"{layer}.lora_B"]
    n_parts = _N_QKV if layer.endswith(".qkv") else 1
    update_OI = torch.cat([b_part @ a_part for b_part, a_part in zip(b.chunk(n_parts), a.chunk(n_parts), strict=True)])
    return update_OI.reshape(len(update_OI), -1, _kernel(layer)) if layer.startswith("blocks.") else update_OI


def _kernel(layer: str) -> int:
    return 1 if layer.endswith(".skip") else 9
