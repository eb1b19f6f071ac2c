"""Files of weights: where they lie, and what they hold. Only data is unpickled, and nothing stands in for what is not
there.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from trainables.checkpoint import load_weights

BUNDLED: Final = Path(__file__).parent / "backbones" / "bundled"  # `<network>_<size>.safetensors`, with model cards
FILE_NAMES: Final = ("model.safetensors", "pytorch_model.bin")  # in a folder, or in a repository of the hub
SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin")
HUB_ID: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:/(.+))?")  # a repository, or a file of it


def locate(name: str) -> Path:
    """Return the file that a path, a folder, or the id of a repository or of a file in it names.

    Raises:
        ValueError: it names nothing, or nothing that can be had; one line, with the ways out.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    match = HUB_ID.fullmatch(name)
    if match is None or (path.suffix in SUFFIXES and match[2] is None) or Path(path.parts[0]).is_dir():
        raise ValueError(
            f"weights: {name} is no file or folder here, nor the id of a repository (OWNER/NAME or OWNER/NAME/FILE); "
            "give one of them, public, bundled or random"
        )
    return fetch_from_hub(match[1], FILE_NAMES if match[2] is None else (match[2],))


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


def difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Say how the tensors of a file differ from those of a network, by names and shapes; empty where they do not."""
    others = [name for name in wanted if name in given and given[name].shape != wanted[name].shape]
    if others:
        found, expected = tuple(given[others[0]].shape), tuple(wanted[others[0]].shape)
        return f"{others[0]} has the shape {found}, not {expected}"
    missing, strange = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    if missing:
        return f"{missing[0]} is missing"
    return f"{strange[0]} has no place" if strange else ""


def _in_folder(folder: Path) -> Path:
    for name in FILE_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} has neither {' nor '.join(FILE_NAMES)}; name the file itself")
