"""Published weights of experts: found and read as those of backbones, and compared name by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from trainables.experts.config import ExpertConfig
from trainables.weight_files import difference, find_bundled, locate, read_state


def find_weights(config: ExpertConfig, kind: str, size: str, public: Mapping[str, str]) -> Path:
    """Return the file that `config.weights` names.

    Args:
        public: size -> what `weights: public` means, an id on Hugging Face.

    Raises:
        ValueError: there is none; one line, with the ways out.
    """
    if config.weights == "bundled":
        return find_bundled(kind, size)
    if config.weights == "public":
        if size not in public:
            sizes = ", ".join(public) or "none"
            raise ValueError(
                f"weights: public of {kind} are of size {sizes}, but got size: {size}; choose one, or random"
            )
        return locate(public[size])
    return locate(config.weights)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict, bare or under `model` or `model_state_dict`; raises as `read_state`."""
    state = read_state(path)
    for name in ("model", "model_state_dict"):
        if isinstance(state.get(name), Mapping):
            state = dict(state[name])
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def fill(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give `network` the tensors; all must be there, and no others.

    Raises:
        ValueError: they are of another network; names the first that differs.
    """
    wanted = network.state_dict()
    fault = difference(tensors, wanted)
    if fault:
        raise ValueError(f"weights: {path} is of another network: {fault}; choose kind and size to match")
    network.load_state_dict(dict(tensors))
