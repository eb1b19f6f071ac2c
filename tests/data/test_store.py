"""The shard store: formats agree, damage is named, and the manifest can be trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.ingest import ingest_serially
from data.reader import RecordBlock
from data.store import (
    CorruptShard,
    Format,
    Manifest,
    read_ecg,
    read_manifest,
    read_shard,
    verify_shard,
    write_shard,
)
from tests.data.toy_reader import ToyReader

FORMATS: list[Format] = ["hdf5", "parquet"]


def assert_equal(left: RecordBlock, right: RecordBlock) -> None:
    np.testing.assert_array_equal(left.ecg_NLT, right.ecg_NLT)
    assert left.ecg_NLT.dtype == right.ecg_NLT.dtype == np.float32
    assert left.labels.keys() == right.labels.keys()
    for name in left.labels:
        np.testing.assert_array_equal(left.labels[name], right.labels[name])
        assert left.labels[name].dtype == right.labels[name].dtype == np.float32
    for name in ("record_ids", "patient_ids", "folds"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert getattr(left, name).dtype == getattr(right, name).dtype
    assert left.meta.keys() == right.meta.keys()
    for name in left.meta:
        np.testing.assert_array_equal(left.meta[name], right.meta[name])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    ingest_serially(ToyReader(), tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("shard_format", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_shard_gives_back_the_block_that_was_written(tmp_path: Path, shard_format: Format, dtype: str) -> None:
    block = ToyReader().read(range(30))
    shard = write_shard(tmp_path, "s", block, shard_format, dtype)  # type: ignore[arg-type]
    assert shard.n_records == 30
    assert_equal(read_shard(tmp_path, shard), block)


@settings(max_examples=30, deadline=None)
@given(bounds=st.tuples(st.integers(0, 300), st.integers(0, 300)), shard_format=st.sampled_from(FORMATS))
def test_rows_of_a_shard_are_the_rows_of_its_block(
    bounds: tuple[int, int], shard_format: Format, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # 300 records: more than two row groups of Parquet.
    folder = tmp_path_factory.getbasetemp() / shard_format
    block = ToyReader(n_records=300, n_timesteps=4).read(range(300))
    folder.mkdir(exist_ok=True)
    shard = write_shard(folder, "s", block, shard_format, "float32")
    rows = slice(*sorted(bounds))
    part = read_shard(folder, shard, rows)
    np.testing.assert_array_equal(part.ecg_NLT.reshape(-1), block.ecg_NLT[rows].reshape(-1))
    np.testing.assert_array_equal(part.record_ids, block.record_ids[rows])


@pytest.mark.parametrize("shard_format", FORMATS)
def test_equal_data_gives_equal_bytes(tmp_path: Path, shard_format: Format) -> None:
    block = ToyReader().read(range(10))
    first, second = (write_shard(tmp_path, name, block, shard_format, "float32") for name in "ab")
    assert first.sha256 == second.sha256


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_flipped_byte_is_found_by_the_checksum(tmp_path: Path, shard_format: Format) -> None:
    shard = write_shard(tmp_path, "s", ToyReader().read(range(10)), shard_format, "float32")
    verify_shard(tmp_path, shard)
    content = bytearray((tmp_path / shard.file).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / shard.file).write_bytes(content)
    with pytest.raises(CorruptShard, match=rf"{shard.file} is corrupt: its sha256 is"):
        verify_shard(tmp_path, shard)


@pytest.mark.parametrize("shard_format", FORMATS)
def test_a_truncated_or_missing_shard_is_named(tmp_path: Path, shard_format: Format) -> None:
    shard = write_shard(tmp_path, "s", ToyReader().read(range(10)), shard_format, "float32")
    path = tmp_path / shard.file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptShard, match=f"{shard.file} can't be read"):
        read_shard(tmp_path, shard)
    path.unlink()
    for read in (read_shard, read_ecg, verify_shard):
        with pytest.raises(CorruptShard, match=shard.file):
            read(tmp_path, shard)


def test_a_manifest_survives_writing_and_reading(store: Path) -> None:
    manifest = read_manifest(store)
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    assert manifest.counts.n_records == 60
    assert manifest.counts.n_patients == 30
    assert manifest.notes == ("made up",)


def test_a_missing_store_is_refused_with_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is no store.*python -m platform.ingest KIND SOURCE --out"):
        read_manifest(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{", "\xff"])
def test_a_damaged_manifest_is_refused(store: Path, text: str) -> None:
    (store / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"dataset.json can't be read .*; ingest the data set anew"):
        read_manifest(store)


@pytest.mark.parametrize("content", ["[]", '{"version": 99}'])
def test_another_version_of_the_manifest_is_refused(store: Path, content: str) -> None:
    (store / "dataset.json").write_text(content)
    with pytest.raises(ValueError, match=r"has version .*but this code reads 2"):
        read_manifest(store)


def test_an_edited_manifest_is_refused(store: Path) -> None:
    path = store / "dataset.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "fs_hz": 500.0}))
    with pytest.raises(ValueError, match="was edited: its fingerprint does not match"):
        read_manifest(store)
    del fields["shards"]
    path.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="shards: Field required; ingest the data set anew"):
        read_manifest(store)
