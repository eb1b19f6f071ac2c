"""Streaming: every record once, the same for any number of ranks, and as well mixed as from memory."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from data import streaming
from data.dataset import Batch, Split
from data.ingest import ingest_serially
from data.loading import DataConfig, build_plan, check_shards, select_role
from data.store import CorruptShard, read_manifest
from data.streaming import StreamedSplit, cut_pieces, deal, epoch_order
from tests.data.toy_reader import ToyReader, toy_ecg

N_SHARDS, SHARD_RECORDS, PIECE_RECORDS = 20, 1398, 87  # shards of 64 MiB and pieces of 4 MiB of 12 x 1,000
SORTED_SHARD_N = np.repeat(np.arange(N_SHARDS), SHARD_RECORDS)
SORTED_ROW_N = np.tile(np.arange(SHARD_RECORDS), N_SHARDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "toy"
    ingest_serially(ToyReader(n_records=200), path, n_records_per_shard=7)
    return path


def streamed(store: Path, **fields: Any) -> StreamedSplit:
    config = DataConfig.model_validate({"store": str(store), "labels": "sex", **fields})
    plan = build_plan(config)
    checked = check_shards(config, plan, [""] * len(plan.shards))
    return StreamedSplit(plan, select_role(plan, checked, "train"))


def join(batches: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def order_of(split: Split, seed: int, batch_size: int = 32) -> list[int]:
    return np.concatenate([batch.index_B for batch in split.batches(batch_size, shuffle_seed=seed)]).tolist()


def sorted_store_order(seed: int) -> NDArray[np.int64]:
    """Return the order of an epoch over 20 shards of 64 MiB, without a store."""
    return epoch_order(cut_pieces(SORTED_SHARD_N, SORTED_ROW_N, PIECE_RECORDS), seed).order_N


# --- which records


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch_size=st.integers(1, 70),
    world_size=st.integers(1, 3),
    seed=st.one_of(st.none(), st.integers(0, 50)),
    piece_records=st.integers(1, 20),
    window_pieces=st.integers(1, 9),
)
def test_a_stream_gives_every_record_once_and_ranks_share_its_batches(
    store: Path, batch_size: int, world_size: int, seed: int | None, piece_records: int, window_pieces: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "PIECE_BYTES", piece_records * 3 * 50 * 4)
        patch.setattr(streaming, "WINDOW_PIECES", window_pieces)
        split = streamed(store)
        whole = list(split.batches(batch_size, shuffle_seed=seed))
        ranks = [
            list(split.batches(batch_size, shuffle_seed=seed, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
    batch = join(whole)
    assert sorted(batch.index_B) == list(range(split.n_records))
    if seed is None:
        assert batch.index_B.tolist() == sorted(batch.index_B)
    for global_batch, parts in zip(whole, zip(*ranks, strict=True), strict=True):
        for joined, expected in zip(join(list(parts)), global_batch, strict=True):
            np.testing.assert_array_equal(joined, expected)
    names = split.record_ids[batch.index_B]
    np.testing.assert_array_equal(batch.ecg_BLT, [toy_ecg(int(name[1:4]), 50) for name in names])
    np.testing.assert_array_equal(batch.labels_BK, split.labels_NK[batch.index_B])


@given(
    shard_sizes=st.lists(st.integers(1, 60), min_size=1, max_size=25),
    piece_records=st.integers(1, 30),
    seed=st.one_of(st.none(), st.integers(0, 2**32)),
)
def test_an_order_has_every_position_once_in_windows_of_bounded_size(
    shard_sizes: list[int], piece_records: int, seed: int | None
) -> None:
    shard_N = np.repeat(np.arange(len(shard_sizes)), shard_sizes)
    row_N = np.concatenate([np.arange(size) for size in shard_sizes])
    epoch = epoch_order(cut_pieces(shard_N, row_N, piece_records), seed)
    assert sorted(epoch.order_N.tolist()) == list(range(len(shard_N)))
    assert epoch.window_ends[-1] == len(shard_N)
    assert max(np.diff([0, *epoch.window_ends])) <= streaming.WINDOW_PIECES * piece_records


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.integers(1, 30), st.integers(1, 50))
def test_a_piece_spans_few_rows_however_few_are_selected(chosen: list[bool], size: int, shard_rows: int) -> None:
    shard_N, row_N = np.divmod(np.flatnonzero(chosen), shard_rows)
    bounds = cut_pieces(shard_N, row_N, size)
    assert bounds[0] == 0
    assert bounds[-1] == len(row_N)
    for start, stop in pairwise(bounds):
        assert len(set(shard_N[start:stop])) == 1
        assert row_N[stop - 1] - row_N[start] < size


@given(shard_pieces=st.lists(st.integers(1, 40), min_size=1, max_size=20), n_windows=st.integers(1, 30))
def test_every_window_gets_its_share_of_every_shard(shard_pieces: list[int], n_windows: int) -> None:
    window_of = deal(sum(shard_pieces), n_windows, np.random.default_rng(0))
    for first, n_pieces in zip(np.cumsum([0, *shard_pieces]), shard_pieces, strict=False):
        counts = np.bincount(window_of[first : first + n_pieces], minlength=n_windows)
        assert (np.abs(counts - n_pieces / n_windows) <= 2).all()


def test_a_split_without_records_has_no_batches(store: Path) -> None:
    assert epoch_order(cut_pieces(np.empty(0, np.int64), np.empty(0, np.int64), 5), 1).order_N.tolist() == []


# --- how well mixed


@pytest.mark.parametrize("seed", range(5))
def test_the_place_in_an_epoch_does_not_follow_the_place_in_the_store(seed: int) -> None:
    order_N = sorted_store_order(seed)
    assert abs(spearmanr(order_N, np.arange(len(order_N))).statistic) < 0.1


@pytest.mark.parametrize("seed", range(5))
def test_no_batch_has_more_than_a_quarter_from_one_shard_of_a_sorted_store(seed: int) -> None:
    order_N = sorted_store_order(seed)
    batches = order_N[: len(order_N) // 128 * 128].reshape(-1, 128)
    most = max(np.bincount(SORTED_SHARD_N[batch]).max() for batch in batches)
    assert most <= 128 / 4


def test_both_hold_for_the_batches_of_a_store_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 shards, the training records are those of eight folds in ten."""
    ingest_serially(ToyReader(n_records=4000, chunk_records=200, n_timesteps=8), tmp_path / "s")
    assert len(read_manifest(tmp_path / "s").shards) == N_SHARDS
    monkeypatch.setattr(streaming, "PIECE_BYTES", 16 * 3 * 8 * 4)
    split = streamed(tmp_path / "s")
    batches = [batch.index_B for batch in split.batches(128, shuffle_seed=3)]
    shard_N = np.arange(split.n_records) * N_SHARDS // split.n_records
    assert max(np.bincount(shard_N[index_B]).max() for index_B in batches) <= 128 / 4
    assert abs(spearmanr(np.concatenate(batches), np.arange(split.n_records)).statistic) < 0.1


# --- seeds, threads and errors


def test_a_streams_order_depends_on_the_seed_alone(store: Path) -> None:
    first, second = streamed(store), streamed(store)
    assert order_of(first, 1) == order_of(second, 1) == order_of(first, 1, batch_size=7)
    assert order_of(first, 1) != order_of(first, 2)


def test_an_epoch_can_be_repeated_after_one_that_was_left_in_the_middle(store: Path) -> None:
    split = streamed(store)
    expected = order_of(split, 4)
    batches = split.batches(32, shuffle_seed=4)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert order_of(split, 4) == expected


def test_a_stream_left_early_ends_its_thread_and_writable_batches_share_nothing(store: Path) -> None:
    split = streamed(store)
    batches = split.batches(8, shuffle_seed=1)
    batch = next(batches)
    batch.ecg_BLT[:] = 7
    batches.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("shards") for thread in threading.enumerate())
    assert not np.array_equal(next(split.batches(8, shuffle_seed=1)).ecg_BLT, batch.ecg_BLT)


def test_a_batch_that_is_kept_does_not_keep_its_window(store: Path) -> None:
    for batch in streamed(store).batches(8, shuffle_seed=1):
        assert batch.ecg_BLT.flags.owndata


def test_a_shard_that_disappears_is_named_by_the_batch_that_needs_it(tmp_path: Path) -> None:
    ingest_serially(ToyReader(n_records=100), tmp_path / "s", n_records_per_shard=7)
    split = streamed(tmp_path / "s")
    shard = read_manifest(tmp_path / "s").shards[2]
    (tmp_path / "s" / shard.file).unlink()
    with pytest.raises(CorruptShard, match=shard.file):
        list(split.batches(8))
