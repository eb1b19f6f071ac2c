"""Weights that a network of AdaGrad-Fusion starts from: the published ones, or those of an earlier run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainables.checkpoint import load_weights
from trainables.config import TrainConfig
from trainables.conv_transformer import SIZES
from trainables.fusion_network import FusionNetwork, NetworkConfig
from trainables.lora import merge_state
from trainables.published_backbone import Weights, read_published
from trainables.weight_files import fetch_from_hub

HUB_ID = "KAZABANA/Foundation-Models-for-ECG-classification"
OWN_SUFFIX = ".safetensors"
RANDOM = "random"
LAST_LAYER = "head.classes."
_AUXILIARY = "head.auxiliary_"


class PretrainedConfig(NetworkConfig):
    """Where training starts."""

    weights: str = Field(
        RANDOM,
        min_length=1,
        description=f"What the network starts from: random; a file (the original's, or {OWN_SUFFIX} of this project); "
        f"a best/ folder; or the id of a repository on Hugging Face, such as {HUB_ID}.",
    )
    weights_file: str | None = Field(
        None, description="The file in that repository, such as CODE_testmediumbias_full_checkpoint.pkl."
    )
    weights_lora: str | None = Field(None, description="A LoRA-only checkpoint of the original, merged into `weights`.")
    weights_head: bool = Field(
        False, description="Start from the last layer's weights too; they must be of the same labels in the same order."
    )

    @model_validator(mode="after")
    def _weights_consistent(self) -> PretrainedConfig:
        if self.weights == RANDOM:
            for name in ("weights_file", "weights_lora", "weights_head"):
                if getattr(self, name):
                    rule = f"{name} works only with weights that are not {RANDOM}"
                    raise ValueError(f"{rule}; got {getattr(self, name)!r}; leave it out")
            return self
        if is_hub_id(self.weights) != (self.weights_file is not None):
            raise ValueError(
                "weights_file names the file in a repository, and is for one alone, "
                f"but got weights={self.weights!r} and weights_file={self.weights_file!r}"
            )
        return self


def is_hub_id(place: str) -> bool:
    """Return whether `place` is OWNER/NAME of a repository and nothing on this disk."""
    return bool(re.fullmatch(r"[\w-]+/[\w.-]+", place)) and not Path(place).suffix and not Path(place).exists()


def load_pretrained(network: FusionNetwork, config: PretrainedConfig) -> None:
    """Fill `network` as `config` says, before LoRA is attached; does nothing where it says `random`.

    The last layer stays as it is unless `config.weights_head` is set, and so does an auxiliary head that the file
    lacks.

    Raises:
        ValueError: the weights can't be had, or are of another network.
    """
    if config.weights == RANDOM:
        return
    place = config.weights
    path = fetch_from_hub(place, (str(config.weights_file),)) if is_hub_id(place) else Path(place)
    fill(network, read_weights(path), config, str(path), whole=True)
    if config.weights_lora is not None:
        lora = Path(config.weights_lora)
        fill(network, read_weights(lora), config, str(lora), whole=False)


def read_weights(path: Path) -> Weights:
    """Read the original's pickle or this project's safetensors (or the best/ folder with them).

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"there are no weights at {path}; give a file, a best/ folder, or a hub id such as {HUB_ID}")
    if file.suffix != OWN_SUFFIX:
        return read_published(file)
    plain = merge_state(load_weights(file))
    return Weights({re.sub(r"^body\.\d+\.", "", name): tensor for name, tensor in plain.items()})


@torch.no_grad()
def fill(network: FusionNetwork, weights: Weights, config: PretrainedConfig, source: str, *, whole: bool) -> None:
    """Copy `weights` into `network`, and add their updates.

    Args:
        whole: whether all of the body must be there.

    Raises:
        ValueError: a tensor is lacking, or of another shape.
    """
    ours = _tensors(network)
    taken = {name: tensor for name, tensor in weights.plain.items() if _is_taken(name, ours, weights, config)}
    added = {
        name: tensor for name, tensor in weights.updates.items() if name in ours and not name.startswith(_AUXILIARY)
    }
    _check_size(ours, weights, config, source)
    _check_shapes({**added, **taken}, ours, source)
    if whole:
        _check_whole(taken, ours, source)
    for name, tensor in taken.items():
        ours[name].copy_(tensor)
    for name, tensor in added.items():
        ours[name].add_(tensor)


def _tensors(network: FusionNetwork) -> dict[str, Tensor]:
    return {re.sub(r"^body\.\d+\.", "", name): tensor for name, tensor in network.state_dict().items()}


def _is_taken(name: str, ours: Mapping[str, Tensor], weights: Weights, config: PretrainedConfig) -> bool:
    if name.startswith(LAST_LAYER):
        return config.weights_head
    if name.startswith(_AUXILIARY):  # the original's LoRA-only files hold biases of an auxiliary head without weights
        return name in ours and {each for each in ours if each.startswith(_AUXILIARY)} <= set(weights.plain)
    return name in ours or not name.startswith(("seen_", "head.units."))


def _check_size(ours: Mapping[str, Tensor], weights: Weights, config: TrainConfig, source: str) -> None:
    """Compare the sizes of the two networks, so that a wrong one is named rather than a tensor's shape."""
    found, wanted = _dimensions(weights.plain), _dimensions(ours)
    if found != wanted:
        size = next((name for name, (width, n_layers, _) in SIZES.items() if (width, n_layers) == found), None)
        raise ValueError(
            f"{source} is of a network of width {found[0]} with {found[1]} layers"
            + (f" (size: {size})" if size else "")
            + f", but the parameters ask for width {wanted[0]} with {wanted[1]} layers"
        )


def _dimensions(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Return width and number of layers; (0, 0) of what is no network of this kind."""
    biases = [tensor for name, tensor in tensors.items() if re.fullmatch(r"layers\.\d+\.norm1\.bias", name)]
    return (len(biases[0]), len(biases)) if biases else (0, 0)


def _check_shapes(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in theirs.items():
        if name not in ours:
            raise ValueError(f"{source} has {name}, which the network lacks")
        if tensor.shape != ours[name].shape:
            found, wanted = tuple(tensor.shape), tuple(ours[name].shape)
            raise ValueError(f"{source}: {name} has the shape {found}, but the network's is {wanted}; {_remedy(name)}")


def _remedy(name: str) -> str:
    if name.startswith(LAST_LAYER):
        return "set weights_head to false for a new last layer"
    return "it is of records with another number of leads"


def _check_whole(taken: Iterable[str], ours: Mapping[str, Tensor], source: str) -> None:
    body = [name for name in ours if name.startswith(("blocks.", "layers."))]
    lacking = sorted(set(body) - set(taken))
    if lacking:
        raise ValueError(
            f"{source} lacks {lacking[0]} and {len(lacking) - 1} more; a LoRA-only checkpoint goes into "
            "weights_lora, and the backbone it was trained on into weights"
        )
