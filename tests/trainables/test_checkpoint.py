"""Checkpoints: whole or absent, data only."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.checkpoint import (
    CheckpointNotWritten,
    keep_previous,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    write_whole,
)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {"epoch": 3, "model": {"w": torch.arange(4.0)}, "lr": [1e-3], "name": "x", "none": None}
    save_checkpoint(tmp_path / "last.ckpt", state)
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(loaded.pop("model")["w"], torch.arange(4.0))
    assert loaded == {"epoch": 3, "lr": [1e-3], "name": "x", "none": None}


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, {"epoch": 1})

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_whole(path, fail)
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint"):
        load_checkpoint(path)


def test_a_bit_that_flips_anywhere_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    path, state = tmp_path / "last.ckpt", {"epoch": 3, "lr": 0.1, "w": torch.arange(9.0), "seen": np.arange(5)}
    save_checkpoint(path, state)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint"):
            load_checkpoint(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
STATES = st.dictionaries(
    st.text() | st.integers(),
    st.recursive(
        SCALARS,
        lambda each: st.lists(each) | st.lists(each).map(tuple) | st.dictionaries(st.text() | st.integers(), each),
        max_leaves=20,
    ),
)


@given(state=STATES)
def test_any_state_without_tensors_comes_back_with_its_types(tmp_path_factory: Any, state: dict[Any, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ckpt"
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert loaded == state
    assert repr(loaded) == repr(state)  # 1, 1.0 and True are equal; [1] and (1,) in a repr are not


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4).T,
        torch.tensor(2.5),
        torch.empty(0, 3),
        torch.arange(3).bool(),
        torch.randn(5).bfloat16(),
        torch.get_rng_state(),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_a_tensor_comes_back_with_its_type_and_shape(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_checkpoint(tmp_path / "last.ckpt", {"x": tensor})
    loaded = load_checkpoint(tmp_path / "last.ckpt")["x"]
    torch.testing.assert_close(loaded, tensor, rtol=0, atol=0)  # compares types and shapes too


def test_an_array_comes_back_as_an_array(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.array(3, np.int8), "c": np.empty((0, 2), np.float32)}
    save_checkpoint(tmp_path / "last.ckpt", arrays)
    for name, loaded in load_checkpoint(tmp_path / "last.ckpt").items():
        np.testing.assert_array_equal(loaded, arrays[name], strict=True)


def test_a_tensor_that_a_state_has_twice_is_written_once(tmp_path: Path) -> None:
    tensor = torch.randn(10_000)
    save_checkpoint(tmp_path / "last.ckpt", {"model": {"w": tensor}, "folds": [{"w": tensor}]})
    assert (tmp_path / "last.ckpt").stat().st_size < 1.1 * tensor.nbytes
    loaded = load_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(loaded["folds"][0]["w"], tensor)


def test_a_state_that_is_not_data_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"a state holds tensors, numbers, .* but got PosixPath PosixPath\('x'\)"):
        save_checkpoint(tmp_path / "last.ckpt", {"model": {"path": Path("x")}})
    assert list(tmp_path.iterdir()) == []


def test_weights_alone_are_no_checkpoint(tmp_path: Path) -> None:
    save_weights(tmp_path / "best.safetensors", {"w": torch.zeros(2)})
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "best.safetensors")


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": Path("x")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="is not a checkpoint"):
        load_checkpoint(tmp_path / "last.ckpt")


def test_weights_come_back_bit_for_bit_tied_ones_included(tmp_path: Path) -> None:
    shared = torch.randn(3, 4)
    weights = {"a": shared, "b": shared, "n": torch.tensor(5), "t": torch.randn(4, 3).T}
    save_weights(tmp_path / "best.safetensors", weights)
    loaded = load_weights(tmp_path / "best.safetensors")
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"best\.safetensors holds no weights"):
        load_weights(tmp_path / "best.safetensors")


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow past 4 kB, as a full disk would: the write fails half way."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_takes_no_more_is_told_from_a_fault_of_the_method(tmp_path: Path) -> None:
    path, weights = tmp_path / "last.ckpt", {"weight": torch.zeros(4000)}
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(CheckpointNotWritten, match=r"last\.ckpt can't be written"):
        save_checkpoint(path, {"model": weights})
    with pytest.raises(CheckpointNotWritten, match=r"best\.safetensors can't be written"):
        save_weights(tmp_path / "best.safetensors", weights)
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_the_checkpoint_before_stays_what_it_was(tmp_path: Path) -> None:
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    keep_previous(last, previous)
    assert not previous.exists()
    for epoch in (1, 2, 3):
        keep_previous(last, previous)
        save_checkpoint(last, {"epoch": epoch})
    assert (load_checkpoint(previous), load_checkpoint(last)) == ({"epoch": 2}, {"epoch": 3})
    assert sorted(tmp_path.iterdir()) == [last, previous]
