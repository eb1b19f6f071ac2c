"""A safetensors file of torch's tensors or numpy's arrays. Writing needs no torch, nor does reading arrays."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import TensorSpec, serialize_file

if TYPE_CHECKING:
    from torch import Tensor

_NOWHERE = np.empty(0)  # torch gives the address 0 to a tensor without elements, which is none


def write_tensors(path: Path, tensors: Mapping[str, Tensor | NDArray[Any]], notes: Mapping[str, str]) -> None:
    """Write tensors of any device, and `notes` in the file's header. Tensors that share memory are written each.

    Raises:
        SafetensorError: the disk does not take it.
    """
    held = {name: in_one_piece(tensor) for name, tensor in tensors.items()}  # until the file is written
    serialize_file({name: _spec(tensor) for name, tensor in held.items()}, path, dict(notes))


def checksum(tensor: Tensor | NDArray[Any]) -> int:
    """Return the CRC-32 of a tensor's numbers as they lie in memory, in order."""
    flat = in_one_piece(tensor).reshape(-1)
    if not isinstance(flat, np.ndarray):
        import torch  # here, for a process that has none

        flat = flat.view(torch.uint8).numpy()
    return zlib.crc32(flat.view(np.uint8).data)


def in_one_piece(tensor: Tensor | NDArray[Any]) -> Tensor | NDArray[Any]:
    """Return `tensor` in the CPU's memory, in order and without gaps; a copy only where it is not so yet."""
    if isinstance(tensor, np.ndarray):
        return np.asarray(tensor, order="C")
    return tensor.detach().cpu().contiguous()


def _spec(tensor: Tensor | NDArray[Any]) -> TensorSpec:
    address = tensor.ctypes.data if isinstance(tensor, np.ndarray) else tensor.data_ptr()
    return TensorSpec(
        dtype=str(tensor.dtype).removeprefix("torch."),
        shape=tuple(tensor.shape),
        data_ptr=address or _NOWHERE.ctypes.data,
        data_len=tensor.nbytes,
    )
