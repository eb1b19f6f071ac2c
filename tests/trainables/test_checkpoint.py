"""Checkpoints: whole or absent, data only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights, write_whole


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
