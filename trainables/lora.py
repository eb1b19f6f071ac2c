"""LoRA: a trained update of low rank beside each frozen weight (Hu et al. 2022, arXiv:2106.09685, equation 3).

W' = W + (alpha / rank) B A. The update runs beside the weight, B (A x), so that training holds no second W.

B: records, C: channels, T: timesteps; P: parts of an output that have updates of their own (3: q, k, v), R: rank,
I: inputs, O: outputs.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Plain = TypeVar("Plain", nn.Linear, nn.Conv1d)

INIT_SD = 0.02  # of A; B starts at 0, so that an update starts at nothing

Targets = Mapping[str, int]
"""Pattern of a layer's name -> parts of its output with updates of their own."""


class LoraLayer(nn.Module, ABC):
    """A layer of weight W and bias with an update beside it: `lora_a` and `lora_b`."""

    weight: Tensor
    bias: Tensor | None
    lora_a: nn.Parameter
    lora_b: nn.Parameter
    lora_scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv1d, rank: int, alpha: float) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.lora_b = nn.Parameter(layer.weight.new_zeros(layer.weight.shape[0], rank))
        self.register_buffer("lora_scale", layer.weight.new_full((), alpha / rank))
        self.train(layer.training)

    @abstractmethod
    def low_rank(self, x: Tensor) -> Tensor:
        """Return A x: what `lora_b` sees of a layer's input."""

    @abstractmethod
    def merged(self) -> nn.Module:
        """Return a plain layer of weight W'."""


class LoraLinear(LoraLayer):
    """x_..I -> y_..O. With one part A starts from N(0, 0.02^2), with several from Kaiming's uniform distribution."""

    def __init__(self, layer: nn.Linear, rank: int, alpha: float, n_parts: int = 1) -> None:
        super().__init__(layer, rank, alpha)
        self.n_parts = n_parts
        self.lora_a = nn.Parameter(layer.weight.new_empty(n_parts * rank, layer.in_features))
        if n_parts == 1:
            nn.init.normal_(self.lora_a, std=INIT_SD)
        else:
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def low_rank(self, x: Tensor) -> Tensor:
        return F.linear(x, self.lora_a)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        low = self.low_rank(x) * self.lora_scale
        if self.n_parts == 1:
            y += F.linear(low, self.lora_b)  # in place: y is nobody's input yet
            return y
        parts = zip(low.chunk(self.n_parts, dim=-1), self.lora_b.chunk(self.n_parts), strict=True)
        y += torch.cat([F.linear(low_part, b_part) for low_part, b_part in parts], dim=-1)
        return y

    def merged(self) -> nn.Linear:
        n_outputs, n_inputs = self.weight.shape
        plain = nn.Linear(n_inputs, n_outputs, bias=self.bias is not None, device="meta")
        return _with_parameters(plain, self)


class LoraConv1d(LoraLayer):
    """x_BIT -> y_BOT. A is a convolution of the layer's kernel, stride and padding to R channels, B one of width 1."""

    def __init__(self, layer: nn.Conv1d, rank: int, alpha: float) -> None:
        assert layer.groups == 1 and layer.padding_mode == "zeros"
        super().__init__(layer, rank, alpha)
        assert isinstance(layer.padding, tuple)
        self.stride, self.padding, self.dilation = layer.stride, layer.padding, layer.dilation
        self.lora_a = nn.Parameter(layer.weight.new_empty(rank, *layer.weight.shape[1:]))
        nn.init.normal_(self.lora_a, std=INIT_SD)

    def low_rank(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.lora_a, None, self.stride, self.padding, self.dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv1d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
        y += F.conv1d(self.low_rank(x) * self.lora_scale, self.lora_b[:, :, None])
        return y

    def merged(self) -> nn.Conv1d:
        n_outputs, n_inputs, kernel = self.weight.shape
        plain = nn.Conv1d(n_inputs, n_outputs, kernel, bias=self.bias is not None, device="meta")
        plain.stride, plain.padding, plain.dilation = self.stride, self.padding, self.dilation
        return _with_parameters(plain, self)


def add_lora(model: nn.Module, rank: int, alpha: float, targets: Targets) -> None:
    """Put an update beside every layer of `model` that a pattern of `targets` names, in place.

    Only the updates then train, and every bias; what else is to train, the caller says.
    """
    for pattern, n_parts in targets.items():
        layers = {name: layer for name, layer in model.named_modules() if fnmatchcase(name, pattern)}
        assert layers, pattern
        for name, layer in layers.items():
            _replace(model, name, _adapted(layer, rank, alpha, n_parts))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.rpartition(".")[2] in ("lora_a", "lora_b", "bias"))


def merged(model: nn.Module) -> nn.Module:
    """Return a copy of `model` in which every update is part of its weight; `model` itself where it has none."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    if not layers:
        return model
    model = copy.deepcopy(model)
    for name in layers:
        layer = model.get_submodule(name)
        assert isinstance(layer, LoraLayer)
        _replace(model, name, layer.merged())
    return model


def merge_state(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the merged model, from that of one with updates; others come back as they are."""
    plain = {name: tensor for name, tensor in weights.items() if not name.rpartition(".")[2].startswith("lora_")}
    for layer in (name.removesuffix(".lora_a") for name in weights if name.endswith(".lora_a")):
        a, b, scale = (weights[f"{layer}.lora_{part}"] for part in ("a", "b", "scale"))
        plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + update(a, b, scale)
    return plain


def update(a: Tensor, b_OR: Tensor, scale: Tensor) -> Tensor:
    """Return (alpha / rank) B A in the shape of W; A's first axis holds the parts' ranks one behind another."""
    rank = b_OR.shape[1]
    a_PRI = a.reshape(-1, rank, a[0].numel())
    b_POR = b_OR.reshape(len(a_PRI), -1, rank)
    return (scale * (b_POR @ a_PRI)).reshape(len(b_OR), *a.shape[1:])


def _adapted(layer: nn.Module, rank: int, alpha: float, n_parts: int) -> LoraLayer:
    if isinstance(layer, nn.Conv1d):
        return LoraConv1d(layer, rank, alpha)
    assert isinstance(layer, nn.Linear), layer
    return LoraLinear(layer, rank, alpha, n_parts)


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _with_parameters(plain: Plain, layer: LoraLayer) -> Plain:
    with torch.no_grad():
        plain.weight = nn.Parameter(layer.weight + update(layer.lora_a, layer.lora_b, layer.lora_scale))
    if layer.bias is not None:
        plain.bias = nn.Parameter(layer.bias.detach())
    return plain.train(layer.training)
