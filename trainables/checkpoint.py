"""Checkpoints of a trial and weights of a model, written whole or not at all.

Both are safetensors: a checkpoint's tensors are numbered, and what is around them is JSON in the file's header. So a
checkpoint holds no code, and only who has tensors of torch's needs torch.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from trainables.tensor_file import checksum, in_one_piece, write_tensors
from trainables.trial import State

if TYPE_CHECKING:
    from torch import Tensor

Framework = Literal["pt", "np"]  # as safetensors calls torch and numpy
_STATE: Final = "state"
_CHECKSUMS: Final = "crc32"  # of the state and of each tensor: safetensors itself has none


class CheckpointNotWritten(OSError):  # noqa: N818  (named for what it reports)
    """The disk did not take a file: it is full, over its quota or read-only. No fault of the method's."""


def save_checkpoint(path: Path, state: State) -> None:
    """Write `state` to `path`; a reader sees the old file or the new one, never a part.

    Safe against a kill at any moment. Against a power failure only as far as the file system is: an fsync
    each epoch costs more than an epoch of a small model.

    Raises:
        CheckpointNotWritten: the disk does not take it.
        TypeError: the state holds something other than data.
    """
    tensors: dict[int, tuple[str, Any]] = {}
    text = json.dumps(_encoded(state, tensors))
    named = {name: in_one_piece(tensor) for name, tensor in tensors.values()}  # once: it may come from a GPU
    sums = {_STATE: zlib.crc32(text.encode()), **{name: checksum(tensor) for name, tensor in named.items()}}
    notes = {_STATE: text, _CHECKSUMS: json.dumps(sums)}
    _write_state(path, lambda temporary: write_tensors(temporary, named, notes))


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        ValueError: the file is no checkpoint, or it was cut short or changed since it was written.
    """
    with ExitStack() as files:

        @cache
        def opened(framework: Framework) -> Any:
            # Read, not mapped: a file on a share may be removed by another node while its tensors are in use.
            return files.enter_context(safe_open(path, framework, backend="pread"))

        @cache
        def tensor(framework: Framework, name: str) -> Any:
            read = opened(framework).get_tensor(name)
            if checksum(read) != sums.get(name):
                raise SafetensorError(f"tensor {name} has changed since it was written")
            return read

        try:
            notes = opened("np").metadata() or {}
            if not notes.keys() >= {_STATE, _CHECKSUMS}:
                raise SafetensorError("its header has no state")
            sums = json.loads(notes[_CHECKSUMS])
            if zlib.crc32(notes[_STATE].encode()) != sums.get(_STATE):
                raise SafetensorError("its state has changed since it was written")
            state: State = _decoded(json.loads(notes[_STATE]), tensor)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a checkpoint of this program; delete it to start anew") from error
    return state


def _encoded(value: Any, tensors: dict[int, tuple[str, Any]]) -> Any:
    """Return what stands for `value` in JSON, and put the tensors in it into `tensors`, by identity: each once."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_encoded(each, tensors) for each in value]
    if isinstance(value, tuple):
        return {"tuple": [_encoded(each, tensors) for each in value]}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key, tensors), _encoded(each, tensors)] for key, each in value.items()]}
    name, _ = tensors.setdefault(id(value), (str(len(tensors)), value))
    return {_framework(value): name}


def _framework(value: object) -> Framework:
    if isinstance(value, np.ndarray):
        return "np"
    torch = sys.modules.get("torch")  # where it was never imported there is no tensor of its
    if torch is not None and isinstance(value, torch.Tensor):
        return "pt"
    raise TypeError(
        "a state holds tensors, numbers, texts, None, and lists, tuples and dicts of them, "
        f"but got {type(value).__name__} {value!r:.80}"
    )


def _decoded(node: Any, tensor: Callable[[Framework, str], Any]) -> Any:
    if isinstance(node, list):
        return [_decoded(each, tensor) for each in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "tuple":
        return tuple(_decoded(each, tensor) for each in content)
    if kind == "dict":
        return {_decoded(key, tensor): _decoded(each, tensor) for key, each in content}
    return tensor(kind, content)


def save_weights(
    path: Path, weights: Mapping[str, Tensor | NDArray[Any]], notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a model's weights by name as safetensors, with `notes` in its header; whole or not at all.

    Raises:
        CheckpointNotWritten: the disk does not take it.
    """
    _write_state(path, lambda temporary: write_tensors(temporary, weights, notes))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors onto the CPU.

    Raises:
        ValueError: the file is not safetensors.
    """
    from safetensors.torch import load_file  # here, for a trial's process that needs no torch

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} holds no weights: {error}") from error


def read_notes(path: Path) -> dict[str, str]:
    """Read the notes in the header of a file of weights, without its tensors.

    Raises:
        ValueError: the file is not safetensors.
    """
    try:
        with safe_open(path, "np") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} holds no weights: {error}") from error


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place at once."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def keep_previous(path: Path, previous: Path) -> None:
    """Keep the file at `path` under a second name too, in the place of what has that name now."""
    if not path.exists():
        return
    temporary = previous.with_name(f".{previous.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.link(path, temporary)  # no copy: `path` is replaced as a whole, never written into
    os.replace(temporary, previous)


def _write_state(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write_whole(path, write)
    except (OSError, SafetensorError) as error:  # safetensors hides the system's error so
        raise CheckpointNotWritten(f"{path} can't be written: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
