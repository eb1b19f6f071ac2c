"""Published state dicts by their layout: text files with a tensor's name and shape a line."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def shapes_of(name: str, n_layers: int, **sizes: int) -> dict[str, tuple[int, ...]]:
    """Read `<name>_layout.txt`; `{N}` in a tensor's name stands for each layer, a letter in a shape for a size."""
    text = Path(__file__).with_name(f"{name}_layout.txt").read_text(encoding="utf-8")
    shapes = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        tensor, *shape = line.split()
        numbers = range(n_layers) if "{N}" in tensor else range(1)
        for number in numbers:
            shapes[tensor.replace("{N}", str(number))] = tuple(sizes.get(each) or int(each) for each in shape)
    return shapes


def state_of(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors of some shapes: small, but for those that scale what passes."""
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) + 0.02 for name, shape in shapes.items()}
