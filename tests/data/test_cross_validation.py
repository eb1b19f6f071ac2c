"""Folds of a cross-validation: every record is validated once, patients stay whole, the test fold takes no part."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.cross_validation import CrossValidation, FoldPlan, JoinedSplit
from data.dataset import Dataset, LabelSet, Signal
from data.ingest import ingest_serially
from data.loading import DataConfig, load, materialise
from data.memory import MemorySplit
from tests.data.toy_reader import ToyReader

LABELS = LabelSet("tiny", "binary", ("fast",))


def split(n_patients: int, first: int, records_a_patient: int = 2) -> MemorySplit:
    """Build records that hold their own number, several of each patient."""
    n = n_patients * records_a_patient
    number_N = first + np.arange(n, dtype=np.float32)
    return MemorySplit(
        np.broadcast_to(number_N[:, None, None], (n, 2, 8)).copy(),
        np.arange(n, dtype=np.int32) % 8 + 1,
        (number_N[:, None] % 4 < 1).astype(np.float32),
        np.array([f"r{first + i}" for i in range(n)]),
        np.array([f"p{first}-{i // records_a_patient}" for i in range(n)]),
    )


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(Signal(("I", "II"), 100.0, 8), LABELS, split(40, 0), split(10, 1000), test=split(10, 2000))


def opened(dataset: Dataset, k: int, **options: Any) -> tuple[Dataset, ...]:
    shared: Any = SimpleNamespace(open=lambda: dataset, streamed_roles=())
    return CrossValidation(shared, FoldPlan.of(dataset, k, seed=18, **options)).open().folds


@pytest.mark.parametrize("k", [2, 5])
def test_every_training_and_validation_record_is_validated_once_and_no_test_record(dataset: Dataset, k: int) -> None:
    folds = opened(dataset, k)
    validated = np.concatenate([fold.val.record_ids for fold in folds])
    pool = np.concatenate([dataset.train.record_ids, dataset.val.record_ids])
    assert sorted(validated) == sorted(pool)
    for fold in folds:
        assert sorted([*fold.train.record_ids, *fold.val.record_ids]) == sorted(pool)
        assert not set(fold.train.patient_ids) & set(fold.val.patient_ids)
        assert fold.test is None
        assert fold.val.labels_NK.mean() == pytest.approx(0.25, abs=0.05), "stratified"


def test_the_folds_depend_on_records_seed_and_k_alone(dataset: Dataset) -> None:
    first, second = opened(dataset, 3), opened(dataset, 3)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.val.record_ids, b.val.record_ids)
    other = FoldPlan.of(dataset, 3, seed=19)
    assert (other.val_FN != FoldPlan.of(dataset, 3, seed=18).val_FN).any()


def test_a_share_is_taken_of_every_folds_training_patients_alone(dataset: Dataset) -> None:
    for whole, part in zip(opened(dataset, 5), opened(dataset, 5, train_ratio=0.25), strict=True):
        np.testing.assert_array_equal(whole.val.record_ids, part.val.record_ids)
        assert len(set(part.train.patient_ids)) == round(0.25 * len(set(whole.train.patient_ids)))
        assert set(part.train.record_ids) <= set(whole.train.record_ids)


def test_fewer_patients_than_folds_are_refused(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="60 patient-disjoint folds need at least 60 patients, but there are 50"):
        FoldPlan.of(dataset, 60, seed=18)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_joined_split_gives_every_record_of_its_own_once(dataset: Dataset, world_size: int) -> None:
    train, val = dataset.train, dataset.val
    assert isinstance(train, MemorySplit) and isinstance(val, MemorySplit)
    rows = np.array([0, 3, 78, 79, 80, 99])
    joined = JoinedSplit(train, val, rows)
    assert joined.record_ids.tolist() == ["r0", "r3", "r78", "r79", "r1000", "r1019"]
    seen = []
    for rank in range(world_size):
        for batch in joined.batches(4, shuffle_seed=7, rank=rank, world_size=world_size):
            numbers = batch.ecg_BLT[:, 0, 0].astype(int)
            assert [f"r{number}" for number in numbers] == joined.record_ids[batch.index_B].tolist()
            np.testing.assert_array_equal(batch.labels_BK, joined.labels_NK[batch.index_B])
            np.testing.assert_array_equal(batch.length_B, joined.length_N[batch.index_B])
            batch.ecg_BLT[:] = 0  # a copy, never a view
            seen += numbers.tolist()
    assert sorted(seen) == [0, 3, 78, 79, 1000, 1019]


@pytest.mark.usefixtures("ray_cluster")
def test_folds_that_stream_have_the_records_of_those_in_memory(tmp_path: Path) -> None:
    ingest_serially(ToyReader(n_records=120), tmp_path / "toy", n_records_per_shard=7)
    config = DataConfig.model_validate({"store": str(tmp_path / "toy"), "labels": "sex"})
    plan = FoldPlan.of(load(config), 3, seed=18)
    whole = CrossValidation(materialise(config), plan).open()
    held = whole.folds
    assert all(fold.source == whole.source is not None for fold in held)  # by which kept features are found
    streamed = CrossValidation(materialise(config.model_copy(update={"memory_bytes": 0})), plan).open().folds
    for ours, theirs in zip(held, streamed, strict=True):
        assert sorted(ours.train.record_ids) == sorted(theirs.train.record_ids)
        assert records(ours.val) == records(theirs.val)


def records(split: Any) -> dict[str, float]:
    """Return a number of each record's signal by its id."""
    return {
        str(split.record_ids[index]): float(ecg_LT.sum())
        for batch in split.batches(16, shuffle_seed=3)
        for index, ecg_LT in zip(batch.index_B, batch.ecg_BLT, strict=True)
    }
