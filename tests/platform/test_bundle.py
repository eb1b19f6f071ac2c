"""Bundling a pretrained encoder: what is refused. What is written: tests/sweeps/test_pretraining.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.record_hashes import hash_records
from platform.bundle import main
from tests.platform.trained_sweeps import make_store, make_sweep


def test_records_of_other_kinds_never_share_a_hash() -> None:
    first, second = (hash_records(kind, ["1", "2"]) for kind in ("ptbxl", "sph"))
    assert first == sorted(first) and len(set(first + second)) == 4
    assert hash_records("ptbxl", ["2", "1"]) == first


def test_what_trains_no_encoder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_sweep(tmp_path / "run", make_store(tmp_path / "store"))
    assert main([str(run), "--name", "x", "--out", str(tmp_path / "out")]) == 2
    assert "is of method supervised, which pretrains no encoder" in capsys.readouterr().err
    assert main([str(run), "--name", "../x", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
