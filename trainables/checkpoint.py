"""Checkpoints of a trial and weights of a model, written whole or not at all."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.trial import State


class CheckpointNotWritten(OSError):  # noqa: N818  (named for what it reports)
    """The disk did not take a file: it is full, over its quota or read-only. No fault of the method's."""


def save_checkpoint(path: Path, state: State) -> None:
    """Write `state` to `path`; a reader sees the old file or the new one, never a part.

    Safe against a kill at any moment. Against a power failure only as far as the file system is: an fsync
    each epoch costs more than an epoch of a small model.

    Raises:
        CheckpointNotWritten: the disk does not take it.
    """
    _write_state(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint onto the CPU; data only, no code is run (`weights_only`).

    Raises:
        ValueError: the file is no checkpoint, or holds something other than data.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint of this program; delete it to start anew") from error
    return state


def save_weights(path: Path, weights: Mapping[str, Tensor], notes: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write a model's state dict as safetensors, on the CPU, with `notes` in its header; whole or not at all.

    Raises:
        CheckpointNotWritten: the disk does not take it.
    """
    # clone: safetensors refuses tensors that share memory, as tied weights do
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights.items()}
    _write_state(path, lambda temporary: save_file(tensors, temporary, dict(notes)))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors onto the CPU.

    Raises:
        ValueError: the file is not safetensors.
    """
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
        with safe_open(path, "pt") as file:
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
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors hide the system's error so
        raise CheckpointNotWritten(f"{path} can't be written: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
