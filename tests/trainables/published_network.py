"""The original's network as its authors store it: random tensors under their names, and its answer from these alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Stored = dict[str, Tensor]
N_HEADS = {16: 4, 64: 16}


def published_weights(width: int = 16, n_layers: int = 1, n_outputs: int = 6, n_leads: int = 12) -> Stored:
    """Make a full checkpoint without LoRA."""
    draw = torch.Generator().manual_seed(width + n_layers)
    stored: Stored = {}

    def add(name: str, *shape: int) -> None:
        stored[name] = torch.randn(shape, generator=draw) / math.sqrt(max(1, math.prod(shape[1:])))

    for i in range(3):
        n_in = n_leads if i == 0 else width
        for name, kernel, inputs in (("conv1", 9, n_in), ("conv2", 9, width), ("conv3", 1, n_in)):
            add(f"encoder_layers.{i}.{name}.conv.weight", width, inputs, 1, kernel)
            add(f"encoder_layers.{i}.{name}.conv.bias", width)
        for name in ("bn1", "bn2"):
            add(f"encoder_layers.{i}.{name}.weight", width)
            add(f"encoder_layers.{i}.{name}.bias", width)
            add(f"encoder_layers.{i}.{name}.running_mean", width)
            stored[f"encoder_layers.{i}.{name}.running_var"] = torch.rand(width, generator=draw) + 0.5
            stored[f"encoder_layers.{i}.{name}.num_batches_tracked"] = torch.tensor(7)
    for i in range(n_layers):
        layer = f"transformer_layers.{i}"
        stored[f"{layer}.self_attention.bias"] = torch.ones(96, 96).tril()[None, None]
        for name, inputs, outputs in (("c_attn", width, 3 * width), ("c_proj", width, width)):
            add(f"{layer}.self_attention.{name}.weight", inputs, outputs)
            add(f"{layer}.self_attention.{name}.bias", outputs)
        for name in ("norm1", "norm2"):
            add(f"{layer}.{name}.weight", width)
            add(f"{layer}.{name}.bias", width)
        for name, inputs, outputs in (("fc1", width, 4 * width), ("fc2", 4 * width, width)):
            add(f"{layer}.{name}.weight", outputs, inputs)
            add(f"{layer}.{name}.bias", outputs)
    stored["position_encoding.positional_encoding"] = positions(width)
    for i, outputs in enumerate((width, n_outputs)):
        add(f"classifier.{i}.weight", outputs, width)
        add(f"classifier.{i}.bias", outputs)
    return stored


def lora_pairs(stored: Stored, rank: int) -> Stored:
    """Make updates for every layer that has them; those of `c_attn` are three."""
    draw = torch.Generator().manual_seed(rank)
    pairs: Stored = {}
    for name, weight in stored.items():
        layer = name.removesuffix(".weight")
        if name == layer or layer.endswith(("norm1", "norm2", "bn1", "bn2", "c_proj", "classifier.1")):
            continue
        n_parts = 3 if layer.endswith("c_attn") else 1
        n_in, n_out = weight.shape if n_parts == 3 else (weight[0].numel(), weight.shape[0])
        layer = layer.removesuffix(".conv")
        pairs[f"{layer}.lora_A"] = torch.randn(n_parts * rank, n_in, generator=draw) / 10
        pairs[f"{layer}.lora_B"] = torch.randn(n_out, rank, generator=draw) / 10
    return pairs


def lora_only(stored: Stored) -> Stored:
    """Keep what the original keeps of a LoRA run."""
    parts = ("lora", "bias", "bn", "norm", "classifier.1.weight")
    return {name: tensor for name, tensor in stored.items() if any(part in name for part in parts)}


def positions(width: int) -> Tensor:
    table = torch.zeros(200, width)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table[:, 0::2] = torch.sin(torch.arange(200)[:, None] * rate)
    table[:, 1::2] = torch.cos(torch.arange(200)[:, None] * rate)
    return table


def answer(stored: Stored, ecg_BLT: Tensor) -> Tensor:
    """Return logits_BK as the original computes them, updates of LoRA beside the weights; for whole tokens."""
    x = ecg_BLT[:, :, None, :]
    for i in range(3):
        block = f"encoder_layers.{i}"
        inner = F.leaky_relu(_norm(stored, f"{block}.bn1", _conv(stored, f"{block}.conv1", x, 4, 4)))
        inner = F.leaky_relu(_norm(stored, f"{block}.bn2", _conv(stored, f"{block}.conv2", inner, 1, 4)))
        x = inner + _conv(stored, f"{block}.conv3", F.avg_pool2d(x, (1, 4)), 1, 0)
    x = x.squeeze(2).transpose(1, 2)
    x = x + stored["position_encoding.positional_encoding"][: x.shape[1]]
    n_layers = sum(name.endswith("c_attn.bias") for name in stored)
    for i in range(n_layers):
        layer, width = f"transformer_layers.{i}", x.shape[2]
        x = x + _attend(stored, f"{layer}.self_attention", _layer_norm(stored, f"{layer}.norm1", x))
        inner = F.leaky_relu(_linear(stored, f"{layer}.fc1", _layer_norm(stored, f"{layer}.norm2", x)))
        x = x + _linear(stored, f"{layer}.fc2", inner)
        assert x.shape[2] == width
    return _linear(stored, "classifier.1", _linear(stored, "classifier.0", x.amax(dim=1)))


def _pair(stored: Stored, layer: str) -> tuple[Tensor, Tensor] | None:
    return (stored[f"{layer}.lora_A"], stored[f"{layer}.lora_B"]) if f"{layer}.lora_A" in stored else None


def _linear(stored: Stored, layer: str, x: Tensor) -> Tensor:
    y = x @ stored[f"{layer}.weight"].T + stored[f"{layer}.bias"]
    pair = _pair(stored, layer)
    return y if pair is None else y + x @ pair[0].T @ pair[1].T


def _conv(stored: Stored, layer: str, x: Tensor, stride: int, padding: int) -> Tensor:
    weight = stored[f"{layer}.conv.weight"]
    pair = _pair(stored, layer)
    if pair is not None:
        weight = weight + (pair[1] @ pair[0]).view(weight.shape)
    return F.conv2d(x, weight, stored[f"{layer}.conv.bias"], (1, stride), (0, padding))


def _norm(stored: Stored, layer: str, x: Tensor) -> Tensor:
    mean, variance, weight, bias = (
        stored[f"{layer}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _layer_norm(stored: Stored, layer: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], stored[f"{layer}.weight"], stored[f"{layer}.bias"])


def _attend(stored: Stored, layer: str, x: Tensor) -> Tensor:
    n_batch, n_tokens, width = x.shape
    qkv = x @ stored[f"{layer}.c_attn.weight"] + stored[f"{layer}.c_attn.bias"]
    pair = _pair(stored, f"{layer}.c_attn")
    if pair is not None:
        qkv = qkv + torch.cat([x @ a.T @ b.T for a, b in zip(pair[0].chunk(3), pair[1].chunk(3), strict=True)], dim=2)
    heads = N_HEADS[width]
    q, k, v = (part.view(n_batch, n_tokens, heads, -1).transpose(1, 2) for part in qkv.split(width, dim=2))
    scores = q @ k.transpose(2, 3) / math.sqrt(width / heads)
    mask = stored[f"{layer}.bias"][:, :, :n_tokens, :n_tokens]
    weights = (scores * mask - 1e10 * (1 - mask)).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(n_batch, n_tokens, width)
    return mixed @ stored[f"{layer}.c_proj.weight"] + stored[f"{layer}.c_proj.bias"]
