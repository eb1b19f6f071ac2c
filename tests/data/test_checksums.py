"""A record that changes on the disk after it was verified is noticed before anyone trains on it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.checksums import UNKNOWN, changed_records, checksums
from data.loading import DataConfig, make_store, materialise
from data.store import CorruptShard, read_manifest


def records(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((5, 2, 7), np.float32)


def test_the_checksum_is_the_sum_of_the_words() -> None:
    ecg_NLT = np.array([[[1.0, 2.0]], [[0.0, 0.0]]], np.float32)  # 1.0 is 0x3f800000, 2.0 is 0x40000000
    assert checksums(ecg_NLT).tolist() == [0x3F800000 + 0x40000000 + 1, 1]


@given(record=st.integers(0, 4), byte=st.integers(0, 2 * 7 * 4 - 1), bit=st.integers(0, 7))
def test_any_one_flipped_bit_is_noticed_in_its_record(record: int, byte: int, bit: int) -> None:
    ecg_NLT = records()
    before = checksums(ecg_NLT)
    ecg_NLT[record].reshape(-1).view(np.uint8)[byte] ^= 1 << bit
    assert changed_records(ecg_NLT, before).tolist() == [record]


def test_records_without_a_checksum_are_not_judged() -> None:
    assert changed_records(records(), np.full(5, UNKNOWN, np.uint64)).tolist() == []


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_shard_that_is_damaged_while_it_streams_is_never_trained_on_silently(tmp_path: Path, damage: str) -> None:
    values = {"task": "af_segments", "n_records": 60, "fs_hz": 50, "duration_s": 4}
    config = DataConfig.model_validate({"store": str(tmp_path / "store"), "synthetic": values, "memory_bytes": 0})
    make_store(config)
    train = materialise(config).open().train
    assert sum(len(batch.index_B) for batch in train.batches(16, shuffle_seed=1)) == train.n_records
    _damage(tmp_path / "store" / read_manifest(tmp_path / "store").shards[0].file, damage)
    with pytest.raises(CorruptShard, match=r"changed while it was in use|can't be read"):
        list(train.batches(16, shuffle_seed=2))


def _damage(path: Path, damage: str) -> None:
    """Flip a bit in every 2,000th byte, or cut the file in half; its time stays, as after a fault of the disk."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    for place in range(5000, len(content), 2000):
        content[place] ^= 1
    path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
