"""Weights of backbones: found, read and checked. Only data is unpickled, and nothing stands in for what is not there.

Files hold the keys of `transformers`, with or without the prefix of a model with a head, or those of fairseq-signals
(ECG-FM).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainables.backbones.architecture import Architecture, Family, architecture_of, build_network, network_config
from trainables.backbones.backbone import Backbone
from trainables.backbones.config import BackboneConfig
from trainables.backbones.fairseq import from_fairseq, is_fairseq
from trainables.weight_files import difference, find_bundled, locate, read_state

PUBLIC: Final[Mapping[Family, str]] = {  # of size base
    "wav2vec2": "facebook/wav2vec2-base",
    "hubert": "facebook/hubert-base-ls960",
    "ecg_fm": "wanglab/ecg-fm/mimic_iv_ecg_physionet_pretrained.pt",
}
MASK_KEY: Final = "masked_spec_embed"

_HEADS: Final = re.compile(r"(lm_head|classifier|projector|quantizer|project_q|project_hid|label_embs_concat)\b.*")
_OLD_WEIGHT_NORM: Final = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}
_SAME_IN_CONFIG: Final = (  # what two networks of equal shapes can differ in
    "num_attention_heads",
    "conv_stride",
    "num_conv_pos_embedding_groups",
    "feat_extract_norm",
    "do_stable_layer_norm",
    "hidden_act",
    "feat_extract_activation",
)


def load_pretrained(backbone: Backbone, config: BackboneConfig) -> None:
    """Give `backbone` the weights that `config.weights` names; `random` leaves the fresh ones.

    Raises:
        ValueError: there are none, they can't be read safely, or they are of another network; one line, with the ways
            out.
    """
    if config.weights != "random":
        load_network(backbone.network, find_weights(config), backbone.architecture)


def check_weights(config: BackboneConfig) -> None:
    """Find, read and compare the weights without building a model; raises as `load_pretrained`.

    A hub's files are fetched to its cache, so that trials find them there.
    """
    if config.weights != "random":
        architecture = architecture_of(config.backbone, config.size)
        with torch.device("meta"):
            network = build_network(architecture, masks=config.mask_prob > 0)
        read_weights(find_weights(config), architecture, network.state_dict())


def find_weights(config: BackboneConfig) -> Path:
    """Return the file of weights that `config.weights` names, fetched from the hub where it is an id.

    Raises:
        ValueError: there is no such file, and nothing to fetch it from.
    """
    if config.weights == "bundled":
        return find_bundled(config.backbone, config.size)
    if config.weights == "public" and config.size != "base":
        raise ValueError(f"weights: public are of size base, but got size: {config.size}")
    return locate(PUBLIC[config.backbone] if config.weights == "public" else config.weights)


def load_network(network: nn.Module, path: Path, architecture: Architecture) -> None:
    """Load a file of weights into a module in the layout of `transformers`; raises as `read_weights`."""
    network.load_state_dict(read_weights(path, architecture, network.state_dict()))


def read_weights(path: Path, architecture: Architecture, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read the weights of a network in the layout of `transformers`, and compare them with those that are `wanted`.

    All must be there and no others, but for the vector of masked tokens, which only a network that masks needs.

    Raises:
        ValueError: the file can't be read safely, or holds the weights of another network.
    """
    _check_config(path.with_name("config.json"), architecture)
    weights = _read_network(path)
    if MASK_KEY not in wanted:
        weights.pop(MASK_KEY, None)
    fault = difference(weights, wanted)
    if fault:
        raise ValueError(f"{path} holds the weights of another network: {fault}; choose backbone and size to match")
    return weights


def _read_network(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a network under the keys of `transformers`, those of heads left out."""
    state = read_state(path)
    if isinstance(state.get("model"), Mapping):  # beside the rest of a training
        state = dict(state["model"])
    if is_fairseq(state):
        state = from_fairseq(state)
    tensors = {key: tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}
    return {
        _today(key): tensor
        for key, tensor in ((_bare(key), tensor) for key, tensor in tensors.items())
        if not _HEADS.fullmatch(key)
    }


def _bare(key: str) -> str:
    """Take off the name under which a model with a head keeps the network."""
    return re.sub(r"^(wav2vec2|hubert)\.", "", key)


def _today(key: str) -> str:
    """Return the key under which torch keeps weight-normed weights now."""
    stem, _, last = key.rpartition(".")
    return f"{stem}.{_OLD_WEIGHT_NORM[last]}" if last in _OLD_WEIGHT_NORM else key


def _check_config(path: Path, architecture: Architecture) -> None:
    """Compare what shapes do not show, where a `config.json` lies beside the weights."""
    if not path.is_file():
        return
    given, ours = json.loads(path.read_text(encoding="utf-8")), network_config(architecture).to_dict()
    for name in _SAME_IN_CONFIG:
        if name in given and _plain(given[name]) != _plain(ours[name]):
            raise ValueError(
                f"{path} describes another network: {name} is {given[name]}, not {ours[name]}; "
                "choose backbone and size to match"
            )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value
