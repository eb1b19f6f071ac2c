"""Weights of HuBERT-ECG encoders: a sweep's, a file, or the published ones.

The published checkpoints (huggingface.co/Edoardo-BS/hubert-ecg-{small,base,large}) are under CC BY-NC 4.0. Their
`.pt` files hold a pickled configuration beside the tensors: tensors are read, no object of the file is ever made.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final, get_args

import torch
from torch import Tensor

from trainables.backbones.weights import MASK_KEY
from trainables.checkpoint import load_weights
from trainables.hubert_ecg_encoder import HubertEcgSize
from trainables.weight_files import difference, fetch_from_hub, find_bundled, locate

LICENCE: Final = "CC BY-NC 4.0 (non-commercial)"
PUBLISHED: Final[Mapping[str, str]] = MappingProxyType(
    {f"hubert_ecg_{size}": f"Edoardo-BS/hubert-ecg-{size}" for size in get_args(HubertEcgSize) if size != "tiny"}
)

_NETWORK: Final = re.compile(r"(?:.*\.)?((?:feature_extractor|feature_projection|encoder)\..+|masked_spec_embed)")
_WEIGHT_NORM: Final = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
_logger = logging.getLogger(__name__)


def load_encoder(network: Any, weights: str, size: HubertEcgSize) -> None:
    """Give `network` the weights that `weights` names; `random` leaves the fresh ones.

    Args:
        weights: random; bundled; hubert_ecg_small, _base or _large; an id on Hugging Face; a folder (a sweep's
            best/) or a file.

    Raises:
        ValueError: there are none, they can't be read safely, or they are of another size or rate; one line.
    """
    if weights == "random":
        return
    path = find_weights(weights, size)
    given = network_tensors(read_tensors(path))
    own = network.state_dict()
    given = {name: tensor for name, tensor in given.items() if name in own or name != MASK_KEY}
    wanted = {name: tensor for name, tensor in own.items() if name in given or name != MASK_KEY}
    fault = difference(given, wanted)
    if fault:
        raise ValueError(
            f"weights: {path} is not of HuBERT-ECG {size} at this sampling rate: {fault}; choose size and "
            "data.preprocess (bundled: 500 Hz, published: the preset hubert_ecg) as they were in its pretraining"
        )
    network.load_state_dict(given, strict=False)


def find_weights(weights: str, size: HubertEcgSize) -> Path:
    """Return the file that `weights` names, fetched from the hub where it is published there.

    Raises:
        ValueError: there is none.
    """
    if weights == "bundled":
        return find_bundled("hubert", size)  # at 500 Hz it is the backbone hubert of method peft as well
    if weights in PUBLISHED:
        if weights != f"hubert_ecg_{size}":
            raise ValueError(f"weights: {weights} are not of size {size}; set size: {weights.rpartition('_')[2]}")
        _logger.warning("%s: weights of %s are licensed under %s", weights, PUBLISHED[weights], LICENCE)
        return fetch_from_hub(PUBLISHED[weights])
    return locate(weights)


def file_hash(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_published(weights: str) -> bool:
    """Tell whether the weights come under the published ones' licence."""
    return weights in PUBLISHED or weights in PUBLISHED.values()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file onto the CPU without making any other object of it.

    Raises:
        ValueError: the file is damaged.
    """
    if path.suffix == ".safetensors":
        return load_weights(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_tensor_pickle())
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"{path} can't be read as weights ({str(error).splitlines()[0]})") from error
    inner = content.get("model_state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {name: tensor for name, tensor in inner.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no state dict, or none under model_state_dict")
    return tensors


def network_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's tensors under today's names; heads are left out, whatever stands before the names.

    torch has kept the two tensors of a weight-normed convolution under two pairs of names; both are taken.
    """
    found = {}
    for name, tensor in tensors.items():
        match = _NETWORK.fullmatch(name)
        if match:
            stem, _, last = match[1].rpartition(".")
            found[f"{stem}.{_WEIGHT_NORM[last]}" if last in _WEIGHT_NORM else match[1]] = tensor
    return found


class _Inert:
    """Stands for every object of a checkpoint that is no tensor: takes anything, does nothing."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **options: Any) -> _Inert:
        return self

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


_ALLOWED: Final = {("collections", "OrderedDict"): OrderedDict}


class _TensorUnpickler(pickle.Unpickler):
    """Makes tensors and plain containers; of every other class an inert stand-in, so that no code of a file runs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        is_tensor = module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter")
        is_kind = module in ("torch", "torch.storage") and (name.endswith("Storage") or _is_dtype(name))
        return super().find_class(module, name) if is_tensor or is_kind else _Inert


def _is_dtype(name: str) -> bool:
    return isinstance(getattr(torch, name, None), torch.dtype)


def _tensor_pickle() -> ModuleType:
    """Return what `torch.load` takes for the `pickle` module."""
    module = ModuleType("tensor_pickle")
    vars(module).update(
        Unpickler=_TensorUnpickler, load=lambda file, **options: _TensorUnpickler(file, **options).load()
    )
    return module
