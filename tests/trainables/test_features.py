"""What frozen functions make of records is computed once a record, whatever split asks for it, and bounded."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import nn

from data.config import DataConfig
from data.dataset import Source, Split
from data.ingest import ingest_serially
from data.loading import load
from data.memory import MemorySplit
from data.synthetic import SyntheticConfig, SyntheticReader
from tests.trainables.spread import CPU, Spread
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.features import (
    BATCH_RECORDS,
    LOCK_NAME,
    Answered,
    FeatureCache,
    FrozenFunction,
    KeptSplit,
    batches_of,
    digest_of,
)

N = 150  # more than two batches


@pytest.fixture
def whole() -> Split:
    return tiny_dataset(n_train=N).train


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", most_bytes=10**9)


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


def test_features_come_back_by_position_in_the_split(cache: FeatureCache, whole: Split) -> None:
    kept = cache.get(Spread().frozen, whole, SOURCE)
    order = np.random.default_rng(0).permutation(N)
    np.testing.assert_allclose(kept.take(order), spread_of(whole)[order], rtol=1e-5)
    assert all(isinstance(part, np.memmap) and not part.flags.writeable for part in kept.parts)


def test_a_record_is_computed_once_whatever_split_asks_for_it(cache: FeatureCache, whole: Split) -> None:
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


def test_what_is_lacking_is_known_before(cache: FeatureCache, whole: Split) -> None:
    spread = Spread()
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N
    cache.get(spread.frozen, part_of(whole, list(range(10))), SOURCE)
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N - 10


@pytest.mark.parametrize("other", [Source(Path("store"), "other", "preprocessing"), Source(Path("store"), "f", "p")])
def test_another_store_or_preparation_has_features_of_its_own(cache: FeatureCache, other: Source) -> None:
    assert cache.place_of(Spread().frozen, SOURCE) != cache.place_of(Spread().frozen, other)
    assert cache.place_of(Spread().frozen, SOURCE) != cache.place_of(Spread("changed").frozen, SOURCE)


def test_trials_that_want_the_same_at_once_compute_it_once(cache: FeatureCache, whole: Split) -> None:
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


def test_a_pass_that_ends_midway_leaves_nothing_that_looks_whole(cache: FeatureCache, whole: Split) -> None:
    def torn(function: FrozenFunction, split: Split, row_M: NDArray[np.int64]) -> Iterator[Answered]:
        yield Answered(0, np.zeros((5, 3), np.float32))
        raise KeyboardInterrupt

    spread = Spread()
    with pytest.raises(KeyboardInterrupt):
        cache.get(spread.frozen, whole, SOURCE, torn)
    assert cache.n_lacking(spread.frozen, whole, SOURCE) == N
    assert sorted(path.name for path in cache.place_of(spread.frozen, SOURCE).iterdir()) == ["lock"]


def test_answers_may_come_in_any_order(cache: FeatureCache, whole: Split) -> None:
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


def test_answers_of_any_shape_stand_in_the_records_place(cache: FeatureCache, whole: Split) -> None:
    function = FrozenFunction("halves", "halves", lambda ecg_BLT: ecg_BLT.unflatten(2, (2, -1)), CPU)
    kept = KeptSplit(whole, cache.get(function, whole, SOURCE))
    (expected,) = whole.batches(N)
    seen = []
    for batch in kept.batches(20, shuffle_seed=3, rank=1, world_size=2):
        halves_BLHT = expected.ecg_BLT[batch.index_B].reshape(len(batch.index_B), 3, 2, -1)
        np.testing.assert_array_equal(batch.ecg_BLT, halves_BLHT)
        np.testing.assert_array_equal(batch.labels_BK, whole.labels_NK[batch.index_B])
        seen += batch.index_B.tolist()
    assert len(seen) == len(set(seen)) == N // 2 and seen != sorted(seen)


def test_a_digest_follows_every_bit_of_parameters_and_buffers() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    digests = [digest_of([module])]
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data.view(-1)[-1] += 1
        digests.append(digest_of([module]))
    digests.append(digest_of([module], "a fact"))
    assert len(set(digests)) == len(digests)
    assert digest_of([module], "a fact") == digests[-1]


def test_a_full_disk_is_an_error_with_ways_out(
    cache: FeatureCache, whole: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 8_000, 2_000))
    function = Spread().frozen  # 150 records x 3 leads x 4 bytes, and 150 ids of 4 characters: 4,200 bytes
    with pytest.raises(ValueError, match=r"features take 4\.2e-06 GB, and at most half of .*feature_cache: off"):
        cache.get(function, whole, SOURCE)
    assert [path.name for path in cache.place_of(function, SOURCE).iterdir()] == ["lock"]


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, whole: Split) -> None:
    (tmp_path / "store.features").write_text("a file, not a folder")
    source = replace(SOURCE, store=tmp_path / "store")
    with pytest.raises(ValueError, match=r"store\.features.* \(Not a directory\); make room"):
        FeatureCache.beside(source).get(Spread().frozen, whole, source)


def test_a_data_set_knows_its_store_and_how_its_records_were_prepared(tmp_path: Path) -> None:
    synthetic = {"task": "rhythm", "n_records": 100, "n_leads": 1, "fs_hz": 100, "duration_s": 2}
    ingest_serially(SyntheticReader(SyntheticConfig.model_validate(synthetic)), tmp_path / "s")
    sources = []
    bandpass = {"bandpass": {"low_hz": 1, "high_hz": 40}}
    for steps in ([], [{"zscore": {"per": "lead"}}], [{"zscore": {"per": "global"}}], [bandpass]):
        data = {"store": str(tmp_path / "s"), "labels": "rhythm", "preprocess": steps, "features_bytes": 10}
        sources.append(load(DataConfig.model_validate(data)).source)
    assert all(source is not None and source.store == tmp_path / "s" for source in sources)
    assert all(source.features_bytes == 10 for source in sources if source)
    assert len({source.fingerprint for source in sources if source}) == 1
    assert len({source.preprocessing for source in sources if source}) == 4


# ------------------------------------------------------------------ the bound


PART_BYTES = 4_600  # of N records: 1,800 bytes of features, 2,400 of ids, two headers


def kept_of(cache: FeatureCache, digests: str) -> str:
    """Return which of some functions' answers are there."""
    return "".join(each for each in digests if any(cache.place_of(Spread(each).frozen, SOURCE).glob("*.npy")))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, whole: Split) -> None:
    cache = FeatureCache(tmp_path, most_bytes=3 * PART_BYTES)
    for age, digest in enumerate("abc"):
        cache.get(Spread(digest).frozen, whole, SOURCE)
        os.utime(cache.place_of(Spread(digest).frozen, SOURCE), (age, age))
    cache.get(Spread("a").frozen, whole, SOURCE)
    cache.get(Spread("d").frozen, whole, SOURCE)
    assert kept_of(cache, "abcd") == "acd"
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) <= cache.most_bytes


def test_what_others_keep_there_is_left_alone(tmp_path: Path, whole: Split) -> None:
    """Token features of HuBERT-ECG lie beside the store as well."""
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "part.npy").write_bytes(b"0" * PART_BYTES)
    os.utime(tmp_path / "tokens", (0, 0))
    cache = FeatureCache(tmp_path, most_bytes=PART_BYTES)
    for digest in "ab":
        cache.get(Spread(digest).frozen, whole, SOURCE)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["part.npy"]


def test_who_reads_features_keeps_them_when_they_go(tmp_path: Path, whole: Split) -> None:
    cache = FeatureCache(tmp_path, most_bytes=PART_BYTES)
    kept = cache.get(Spread("a").frozen, whole, SOURCE)
    cache.get(Spread("b").frozen, whole, SOURCE)
    assert kept_of(cache, "ab") == "b"
    np.testing.assert_allclose(kept.take(np.arange(N)), spread_of(whole), rtol=1e-5)
    again = Spread("a")
    np.testing.assert_allclose(cache.get(again.frozen, whole, SOURCE).take(np.arange(N)), spread_of(whole), rtol=1e-5)
    assert again.n_records == N


def test_what_another_trial_is_filling_stays(tmp_path: Path, whole: Split) -> None:
    cache = FeatureCache(tmp_path, most_bytes=PART_BYTES)
    cache.get(Spread("a").frozen, whole, SOURCE)
    message = r"data\.features_bytes is 4\.6e-06 GB; raise it, or compute them anew"
    with FileLock(cache.place_of(Spread("a").frozen, SOURCE) / LOCK_NAME), pytest.raises(ValueError, match=message):
        cache.get(Spread("b").frozen, whole, SOURCE)
    assert kept_of(cache, "ab") == "a"
