"""What frozen functions make of records is computed once a record, whatever split asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.dataset import Source, Split
from data.memory import MemorySplit
from tests.trainables.spread import Spread
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.features import BATCH_RECORDS, FrozenFunction
from trainables.record_features import Answered, RecordFeatures, batches_of

N = 150  # more than two batches


@pytest.fixture
def whole() -> Split:
    return tiny_dataset(n_train=N).train


@pytest.fixture
def cache(tmp_path: Path) -> RecordFeatures:
    return RecordFeatures(tmp_path / "features")


SOURCE = Source(Path("store"), "fingerprint", "preprocessing")


def part_of(split: Split, rows: list[int]) -> Split:
    (batch,) = split.batches(N)
    return MemorySplit(
        batch.ecg_BLT[rows],
        split.length_N[rows],
        split.labels_NK[rows],
        split.record_ids[rows],
        split.patient_ids[rows],
    )


def spread_of(split: Split) -> NDArray[np.float32]:
    (batch,) = split.batches(N)
    return np.asarray(batch.ecg_BLT.std(axis=2, ddof=1))


def test_features_come_back_by_position_in_the_split(cache: RecordFeatures, whole: Split) -> None:
    kept = cache.get(Spread().frozen, whole, SOURCE)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(kept.take(order), spread_of(whole)[order], rtol=1e-5)
    assert all(isinstance(part, np.memmap) and not part.flags.writeable for part in kept.parts)


def test_a_record_is_computed_once_whatever_split_asks_for_it(cache: RecordFeatures, whole: Split) -> None:
    """As folds do, which deal the same records anew."""
    spread, rng = Spread(), np.random.default_rng(1)
    some = part_of(whole, rng.permutation(N)[:40].tolist())
    cache.get(spread.frozen, some, SOURCE)
    assert spread.n_records == 40
    for _ in range(2):
        kept = cache.get(spread.frozen, whole, SOURCE)
    assert spread.n_records == N
    np.testing.assert_allclose(kept.take(np.arange(N)), spread_of(whole), rtol=1e-5)
    fold = part_of(whole, rng.permutation(N)[:70].tolist())
    np.testing.assert_allclose(cache.get(spread.frozen, fold, SOURCE).take(np.arange(70)), spread_of(fold), rtol=1e-5)
    assert spread.n_records == N


def test_what_is_lacking_is_known_before(cache: RecordFeatures, whole: Split) -> None:
    spread = Spread()
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N
    cache.get(spread.frozen, part_of(whole, list(range(10))), SOURCE)
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N - 10


@pytest.mark.parametrize("other", [Source(Path("store"), "other", "preprocessing"), Source(Path("store"), "f", "p")])
def test_another_store_or_preparation_has_features_of_its_own(cache: RecordFeatures, other: Source) -> None:
    assert cache.place_of(Spread().frozen, SOURCE) != cache.place_of(Spread().frozen, other)
    assert cache.place_of(Spread().frozen, SOURCE) != cache.place_of(Spread("changed").frozen, SOURCE)


def test_trials_that_want_the_same_at_once_compute_it_once(cache: RecordFeatures, whole: Split) -> None:
    spread, together = Spread(), threading.Barrier(4)

    def trial() -> None:
        together.wait()
        cache.get(spread.frozen, whole, SOURCE)

    threads = [threading.Thread(target=trial) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert spread.n_records == N


def test_a_pass_that_ends_midway_leaves_nothing_that_looks_whole(cache: RecordFeatures, whole: Split) -> None:
    def torn(function: FrozenFunction, split: Split, row_M: NDArray[np.int64]) -> Iterator[Answered]:
        yield Answered(0, np.zeros((5, 3), np.float32))
        raise KeyboardInterrupt

    spread = Spread()
    with pytest.raises(KeyboardInterrupt):
        cache.get(spread.frozen, whole, SOURCE, torn)
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N
    assert sorted(path.name for path in cache.place_of(spread.frozen, SOURCE).iterdir()) == ["lock"]


def test_answers_may_come_in_any_order(cache: RecordFeatures, whole: Split) -> None:
    def shuffled(function: FrozenFunction, split: Split, row_M: NDArray[np.int64]) -> Iterator[Answered]:
        answered = [
            Answered(first, function.compute(torch.from_numpy(ecg_BLT)).numpy())
            for rank in (2, 0, 1)
            for first, ecg_BLT in batches_of(split, row_M, rank, world_size=3)
        ]
        yield from reversed(answered)

    kept = cache.get(Spread().frozen, whole, SOURCE, shuffled)
    np.testing.assert_allclose(kept.take(np.arange(N)), spread_of(whole), rtol=1e-5)


def test_shares_of_a_pass_are_whole_batches_of_some_rows(whole: Split) -> None:
    row_M = np.arange(1, N, 2)
    found = [
        (first, len(ecg_BLT)) for rank in range(2) for first, ecg_BLT in batches_of(whole, row_M, rank, world_size=2)
    ]
    assert sorted(first for first, _ in found)[0] == 0
    assert sum(size for _, size in found) == len(row_M)
    assert max(size for _, size in found) <= BATCH_RECORDS


def test_a_full_disk_is_an_error_with_ways_out(
    cache: RecordFeatures, whole: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.features.FREE_DISK_SHARE", 0.0)
    with pytest.raises(ValueError, match=r"at most half of .* are free .*; make room"):
        cache.get(Spread().frozen, whole, SOURCE)
