"""Weights of backbones: found, read and checked. Only data is unpickled, and nothing stands in for what is not there.

Files hold the keys of `transformers`, with or without the prefix of a model with a head, or those of fairseq-signals
(ECG-FM); `.safetensors`, or what `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainables.backbones.architecture import Architecture, Family, architecture_of, build_network, network_config
from trainables.backbones.backbone import Backbone
from trainables.backbones.config import BackboneConfig
from trainables.backbones.fairseq import from_fairseq, is_fairseq
from trainables.checkpoint import load_weights

BUNDLED: Final = Path(__file__).with_name("bundled")  # one `<backbone>_<size>.safetensors` each, with a model card
PUBLIC: Final[Mapping[Family, str]] = {  # of size base
    "wav2vec2": "facebook/wav2vec2-base",
    "hubert": "facebook/hubert-base-ls960",
    "ecg_fm": "wanglab/ecg-fm/mimic_iv_ecg_physionet_pretrained.pt",
}
FILE_NAMES: Final = ("model.safetensors", "pytorch_model.bin")  # in a folder, or in a repository of the hub
SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin")
MASK_KEY: Final = "masked_spec_embed"
HUB_ID: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")  # a repository, or a file of it

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


def locate(name: str) -> Path:
    """Return the file that a path, a folder, or the id of a repository or of a file in it names.

    Raises:
        ValueError: as `find_weights`.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    match = HUB_ID.fullmatch(name)
    if match is None or (path.suffix in SUFFIXES and match[2] is None):
        raise ValueError(
            f"weights: {name} is no file or folder here, nor the id of a repository (OWNER/NAME or OWNER/NAME/FILE); "
            "give one of them, public, bundled or random"
        )
    return fetch_from_hub(match[1], FILE_NAMES if match[2] is None else (match[2],))


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
    _compare(weights, wanted, path)
    return weights


def read_state(path: Path) -> dict[str, Any]:
    """Read a file of weights onto the CPU without running any code of it.

    Raises:
        ValueError: the file is damaged, or holds more than data.
    """
    if path.suffix == ".safetensors":
        return dict(load_weights(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} can't be read as data alone ({str(error).splitlines()[0]}); where you trust it, read it once with "
            "torch.load(FILE, weights_only=False) and save its state dict with safetensors.torch.save_file"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return dict(content)


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


def _compare(weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    missing, strange = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    others = [key for key in wanted if key in weights and weights[key].shape != wanted[key].shape]
    if others:
        found, expected = tuple(weights[others[0]].shape), tuple(wanted[others[0]].shape)
        fault = f"{others[0]} has the shape {found}, not {expected}"
    elif missing:
        fault = f"{missing[0]} is missing"
    elif strange:
        fault = f"{strange[0]} has no place"
    else:
        return
    raise ValueError(f"{path} holds the weights of another network: {fault}; choose backbone and size to match")


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


def find_bundled(network: str, size: str) -> Path:
    """Return this repository's own weights of a network, `BUNDLED/<network>_<size>.safetensors`.

    Raises:
        ValueError: there are none.
    """
    path = BUNDLED / f"{network}_{size}.safetensors"
    if path.is_file():
        return path
    there = ", ".join(sorted(each.stem for each in BUNDLED.glob("*.safetensors"))) or "none yet"
    raise ValueError(
        f"weights: bundled has no {network} of size {size} (there: {there}); "
        "give a Hugging Face id, a folder or a file, or weights: random"
    )


def _in_folder(folder: Path) -> Path:
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has neither {' nor '.join(FILE_NAMES)}; name the file itself")


def fetch_from_hub(repository: str, names: Sequence[str] = FILE_NAMES) -> Path:
    """Return the local copy of the first of `names` that a repository has, its `config.json` beside it."""
    # Here: only who names a repository needs the client.
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    fault = f"has no {' nor '.join(names)}"
    try:
        found = next(filter(None, (_fetch(repository, name) for name in names)), None)
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        found, fault = None, "can't be reached, and is not in the local cache"
    except HfHubHTTPError as error:
        found, fault = None, f"can't be had ({str(error).splitlines()[0]})"
    if found is not None:
        with suppress(LocalEntryNotFoundError, OfflineModeIsEnabled):  # a cache without it is like a file without it
            _fetch(repository, "config.json")
        return found
    raise ValueError(
        f"weights: {repository} {fault}; fetch it where there is a network "
        f"(hf download {repository} --local-dir FOLDER) and give FOLDER or a file, or use weights: bundled or random"
    )


def _fetch(repository: str, name: str) -> Path | None:
    """Return a file of the local cache, fetched first where it is not there; None: the repository has no such file."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import RemoteEntryNotFoundError

    cached = try_to_load_from_cache(repository, name)  # first: trials start without a network
    if cached is not None:
        return Path(cached) if isinstance(cached, str) else None
    try:
        return Path(hf_hub_download(repository, name))
    except RemoteEntryNotFoundError:
        return None
