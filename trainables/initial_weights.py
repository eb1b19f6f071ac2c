"""Weights to start from: those of a trained model of ours, but for a last layer with other outputs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from trainables.checkpoint import load_weights


def start_from(model: nn.Module, path: Path) -> list[str]:
    """Give `model` the weights of a file, in place.

    Tensors of the last layer whose shapes differ, as they do for another number of outputs, keep their fresh values.

    Returns:
        The names of the tensors that stayed fresh.

    Raises:
        ValueError: the file is missing, or is of another network: names, or shapes before the last layer, differ.
    """
    if not path.is_file():
        raise ValueError(
            f"weights: {path} is not there; give a safetensors file, e.g. runs/NAME/best/model.safetensors"
        )
    given, own = load_weights(path), model.state_dict()
    if given.keys() != own.keys():
        name = sorted(given.keys() ^ own.keys())[0]
        has, lacks = (path, "the network") if name in given else ("the network", path)
        raise ValueError(f"weights: {path} is of another network: {has} has {name}, {lacks} has not")
    fresh = [name for name in own if given[name].shape != own[name].shape]
    last = _last_layer(model)
    for name in fresh:
        if not name.startswith(f"{last}."):
            shapes = f"{tuple(given[name].shape)}, the network's {tuple(own[name].shape)}"
            raise ValueError(f"weights: {path} is of another network: its {name} has the shape {shapes}")
    model.load_state_dict({name: tensor for name, tensor in given.items() if name not in fresh}, strict=False)
    return fresh


def _last_layer(model: nn.Module) -> str:
    """Return the name of the last linear or convolutional layer."""
    layers: list[str] = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1d)]
    return layers[-1]
