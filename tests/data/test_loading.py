"""Loading: everything is checked before the signal is read, and all three ways to load give the same records."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from data.dataset import Batch, Split
from data.ingest import ingest_serially
from data.loading import (
    DataConfig,
    MemorySplit,
    SharedDataset,
    describe,
    load,
    make_store,
    materialise,
    read_dataset,
)
from data.materialisation import roles_that_fit
from data.store import CorruptShard, read_manifest
from tests.data.toy_reader import ToyReader, UnlabelledReader, toy_ecg

GLOBAL = [{"notch": {"freq_hz": 20}}, {"zscore": {"per": "global"}}]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "toy"
    ingest_serially(ToyReader(n_records=200), path, n_records_per_shard=7)
    return path


def config(store: Path, **fields: Any) -> DataConfig:
    return DataConfig.model_validate({"store": str(store), "labels": "sex", **fields})


def join(batches: list[Batch]) -> Batch:
    return Batch(*(np.concatenate(parts) for parts in zip(*batches, strict=True)))


def spoil(store: Path, number: int) -> str:
    shard = read_manifest(store).shards[number]
    (store / shard.file).write_bytes(b"\x89HDF nothing")
    return shard.file


# --- what can be known without the signal


def test_a_description_counts_records_and_labels_by_role(store: Path) -> None:
    manifest, signal, label_set, counts = describe(config(store, labels="rhythm"))
    assert manifest is not None
    assert (signal.lead_names, signal.fs_hz, signal.n_timesteps) == (("I", "II", "V1"), 100.0, 50)
    assert label_set.names == ("AF", "PVC", "SR")
    dataset = load(config(store, labels="rhythm"), ("train", "val", "test"))
    for role in ("train", "val", "test"):
        split: Split = getattr(dataset, role)
        assert counts[role].n_records == split.n_records
        assert counts[role].labels == tuple(split.labels_NK.sum(axis=0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": "rythm"}, "has no label set 'rythm'; did you mean 'rhythm'?.*rhythm, sex, kind, rr"),
        ({"labels": None}, "has several label sets; name one in data.labels: rhythm, sex, kind, rr"),
        ({"fingerprint": "0123456789"}, "has the fingerprint .* but data.fingerprint asks for 0123456789"),
        ({"folds": {"train": [1], "val": [11]}}, r"role val \(folds 11\) has no records"),
        ({"preprocess": [{"notch": {"freq_hz": 60}}]}, "freq_hz must be below half"),
        ({"synthetic": {"task": "rhythm"}}, "was made from toy .*, not from data.synthetic"),
    ],
)
def test_a_config_that_does_not_fit_the_store_is_refused(store: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        describe(config(store, **fields))


def test_the_beginning_of_the_fingerprint_is_enough(store: Path) -> None:
    describe(config(store, fingerprint=read_manifest(store).fingerprint[:12]))


def test_a_missing_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no store"):
        describe(config(tmp_path / "nowhere"))


def test_a_fold_may_not_have_two_roles() -> None:
    with pytest.raises(ValueError, match="fold 2 is given 2 times"):
        config(Path("s"), folds={"train": [1, 2], "val": [2]})


@pytest.mark.parametrize(
    ("labels", "keep", "problem"),
    [("rhythm", 3, "no records with labels"), ("sex", 0, "no positives"), ("sex", 1, "no negatives")],
)
def test_labels_from_which_nothing_can_be_learned_are_refused(
    tmp_path: Path, labels: str, keep: int, problem: str
) -> None:
    class OneKind(ToyReader):
        def read(self, chunk: range) -> Any:
            block = super().read(chunk)
            rhythm, sex = np.zeros_like(block.labels["rhythm"]), np.full_like(block.labels["sex"], keep)
            return type(block)(**{**vars(block), "labels": {**block.labels, "rhythm": rhythm, "sex": sex}})

    ingest_serially(OneKind(), tmp_path / "s")
    with pytest.raises(ValueError, match=problem):
        describe(config(tmp_path / "s", labels=labels))
    if labels == "rhythm":
        with pytest.raises(ValueError, match="'rhythm' has no positives in its training folds"):
            describe(config(tmp_path / "s", labels=labels, drop_unlabelled=False))


# --- loading in this process


def test_records_come_in_the_order_of_the_store_with_their_own_labels(store: Path) -> None:
    dataset = load(config(store, labels="kind"))
    numbers = [int(name[1:4]) for name in dataset.train.record_ids]
    assert numbers == sorted(numbers)
    assert {number // 2 % 10 + 1 for number in numbers} == set(range(1, 9))
    batch = join(list(dataset.train.batches(16)))
    np.testing.assert_array_equal(batch.ecg_BLT, [toy_ecg(number, 50) for number in numbers])
    np.testing.assert_array_equal(batch.labels_BK[:, 0], [number % 3 for number in numbers])
    assert dataset.test is None


def test_unlabelled_records_are_dropped_unless_they_are_asked_for(store: Path) -> None:
    kept = load(config(store, labels="rhythm"))
    assert (kept.train.labels_NK.sum(axis=1) > 0).all()
    assert kept.train.n_records == 120
    assert load(config(store, labels="rhythm", drop_unlabelled=False)).train.n_records == 160
    assert np.isfinite(load(config(store, labels="rr")).train.labels_NK).all()


def test_patients_of_roles_are_disjoint(store: Path) -> None:
    dataset = load(config(store), ("train", "val", "test"))
    assert dataset.test is not None
    patients = [set(split.patient_ids) for split in (dataset.train, dataset.val, dataset.test)]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 100


def test_folds_may_be_chosen(store: Path) -> None:
    dataset = load(config(store, folds={"train": [10], "val": [1, 2]}))
    assert (dataset.train.n_records, dataset.val.n_records) == (20, 40)


def test_global_statistics_come_from_training_records_only(store: Path) -> None:
    plain = load(config(store, preprocess=GLOBAL[:1]), ("train", "val"))
    loaded = read_dataset(config(store, preprocess=GLOBAL), ("val",))
    assert loaded.statistics is not None
    assert isinstance(plain.train, MemorySplit)
    assert loaded.statistics.mean == pytest.approx(plain.train.ecg_NLT.mean(dtype=np.float64))
    assert loaded.statistics.sd == pytest.approx(plain.train.ecg_NLT.std(dtype=np.float64))
    assert loaded.dataset.train.n_records == 0
    assert isinstance(plain.val, MemorySplit)
    assert isinstance(loaded.dataset.val, MemorySplit)
    expected = (plain.val.ecg_NLT - loaded.statistics.mean) / loaded.statistics.sd
    np.testing.assert_allclose(loaded.dataset.val.ecg_NLT, expected, atol=1e-5)


def test_a_corrupt_shard_is_named_and_its_records_are_skipped_only_if_asked(tmp_path: Path) -> None:
    ingest_serially(ToyReader(n_records=200), tmp_path / "s", n_records_per_shard=7)
    name = spoil(tmp_path / "s", 3)
    with pytest.raises(CorruptShard, match=rf"{name} is corrupt.*the 7 records of bad shards.*skip_bad_records: true"):
        load(config(tmp_path / "s"))
    loaded = read_dataset(config(tmp_path / "s", skip_bad_records=True), ("train", "val", "test"))
    assert (loaded.n_bad_records, loaded.bad_shards) == (7, (name,))
    splits = (loaded.dataset.train, loaded.dataset.val, loaded.dataset.test)
    assert sum(split.n_records for split in splits if split is not None) == 193


def test_batches_are_writable_copies_of_read_only_arrays() -> None:
    ecg_NLT, labels_NK = np.ones((9, 2, 4), np.float32), np.zeros((9, 1), np.float32)
    ecg_NLT.flags.writeable = labels_NK.flags.writeable = False
    split = MemorySplit(
        ecg_NLT,
        np.full(len(ecg_NLT), ecg_NLT.shape[2], np.int32),
        labels_NK,
        np.array([*"abcdefghi"]),
        np.array([*"aabbccdde"]),
    )
    for batch in split.batches(4):
        assert not np.shares_memory(batch.ecg_BLT, ecg_NLT)
        batch.ecg_BLT[:] = 5
        batch.labels_BK[:] = 5
    assert ecg_NLT.max() == 1


# --- what is held in memory


def test_small_roles_are_held_in_memory_first() -> None:
    n_bytes = {"train": 80, "val": 10, "test": 10}
    assert set(roles_that_fit(n_bytes, 100)) == {"train", "val", "test"}
    assert set(roles_that_fit(n_bytes, 99)) == {"val", "test"}
    assert roles_that_fit(n_bytes, 0) == []


# --- through Ray Data


@ray.remote(num_cpus=0)
def look(shared: SharedDataset) -> tuple[Batch, bool]:
    dataset = shared.open()
    writeable = isinstance(dataset.train, MemorySplit) and dataset.train.ecg_NLT.flags.writeable
    return join(list(dataset.train.batches(32, shuffle_seed=5))), writeable


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("preprocess", [[], GLOBAL])
def test_shared_data_equals_loaded_data_in_every_process(store: Path, preprocess: list[Any]) -> None:
    settings_ = config(store, labels="rhythm", preprocess=preprocess)
    loaded = read_dataset(settings_, ("train", "val", "test"))
    shared = materialise(settings_, ("train", "val", "test"))
    assert shared.statistics == loaded.statistics
    assert shared.streamed_roles == ()
    opened = shared.open()
    for role in ("train", "val", "test"):
        here, there = getattr(loaded.dataset, role), getattr(opened, role)
        np.testing.assert_array_equal(here.ecg_NLT, there.ecg_NLT)
        np.testing.assert_array_equal(here.record_ids, there.record_ids)
        np.testing.assert_array_equal(here.labels_NK, there.labels_NK)
        assert not there.ecg_NLT.flags.writeable
    batch, writeable = ray.get(look.remote(shared))
    assert not writeable
    for there, here in zip(batch, join(list(loaded.dataset.train.batches(32, shuffle_seed=5))), strict=True):
        np.testing.assert_array_equal(there, here)


@pytest.mark.usefixtures("ray_cluster")
def test_what_does_not_fit_streams_the_same_values(store: Path) -> None:
    settings_ = config(store, preprocess=GLOBAL, memory_bytes=20 * 600)  # the 20 validation records
    loaded = read_dataset(settings_)
    shared = materialise(settings_)
    assert shared.streamed_roles == ("train",)
    assert shared.statistics == loaded.statistics
    streamed_batch = join(list(shared.open().train.batches(16)))
    np.testing.assert_array_equal(streamed_batch.ecg_BLT, join(list(loaded.dataset.train.batches(16))).ecg_BLT)


@pytest.mark.usefixtures("ray_cluster")
def test_bad_shards_are_named_by_ray_tasks_too(tmp_path: Path) -> None:
    ingest_serially(ToyReader(n_records=200), tmp_path / "s", n_records_per_shard=7)
    name = spoil(tmp_path / "s", 3)
    with pytest.raises(CorruptShard, match=f"{name} is corrupt"):
        materialise(config(tmp_path / "s"))
    shared = materialise(config(tmp_path / "s", skip_bad_records=True))
    assert (shared.n_bad_records, shared.bad_shards) == (7, (name,))


@pytest.mark.usefixtures("ray_cluster")
def test_one_copy_of_the_data_stays_in_the_object_store(tmp_path: Path) -> None:
    from ray._private.internal_api import memory_summary

    def used_mib() -> float:
        summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        return float(summary.split("Plasma memory usage ")[1].split(" MiB")[0])

    ingest_serially(ToyReader(n_records=2000, chunk_records=500, n_timesteps=2000), tmp_path / "s")
    before = used_mib()
    shared = materialise(config(tmp_path / "s"), ("train", "val", "test"))
    n_mib = 2000 * 3 * 2000 * 4 / 2**20  # 46
    deadline = time.monotonic() + 20  # Ray releases blocks in its own time, within a second where it is idle
    while used_mib() - before > 1.1 * n_mib and time.monotonic() < deadline:
        time.sleep(0.1)
    assert used_mib() - before == pytest.approx(n_mib, rel=0.1)
    assert len(shared.splits) == 3


def test_a_synthetic_store_is_described_before_and_made_at_first_use(tmp_path: Path, ray_cluster: None) -> None:
    settings_ = config(tmp_path / "s", labels=None, synthetic={"task": "af_segments", "n_records": 60})
    manifest, signal, label_set, counts = describe(settings_)
    assert manifest is None
    assert counts == {}
    assert (signal.fs_hz, signal.n_timesteps) == (250.0, 1250)
    assert label_set.task == "binary"
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="is not made yet"):
        load(settings_)
    make_store(settings_)
    made = (tmp_path / "s" / "dataset.json").stat().st_mtime_ns
    make_store(settings_)
    assert (tmp_path / "s" / "dataset.json").stat().st_mtime_ns == made
    description = describe(settings_)
    assert description.manifest is not None
    assert description.signal == signal
    with pytest.raises(ValueError, match=r"not from data.synthetic"):
        describe(config(tmp_path / "s", labels=None, synthetic={"task": "af_segments", "n_records": 61}))


def test_a_store_without_labels_is_for_pretraining(tmp_path: Path) -> None:
    ingest_serially(UnlabelledReader(n_records=200), tmp_path / "store")
    with pytest.raises(ValueError, match=r"has no labels, .*pretrain on it with data\.labels: none"):
        describe(DataConfig(store=str(tmp_path / "store")))
    described = describe(DataConfig(store=str(tmp_path / "store"), labels="none"))
    assert (described.label_set.task, described.label_set.n_outputs) == ("unlabelled", 0)
    dataset = load(DataConfig(store=str(tmp_path / "store"), labels="none"))
    assert dataset.train.n_records == described.counts["train"].n_records > 0
    assert dataset.train.labels_NK.shape == (dataset.train.n_records, 0)


@pytest.mark.parametrize("more", [{}, {"finetune_label_ratio": 0.5}, {"k_fold": {"k": 5, "fold": 1}}])
def test_labels_none_takes_every_record_of_a_labelled_store(store: Path, more: dict[str, Any]) -> None:
    described = describe(config(store, labels="none", **more))
    dataset = load(config(store, labels="none", **more))
    assert dataset.train.n_records == described.counts["train"].n_records
    kept = load(config(store, labels="sex", drop_unlabelled=False))
    if not more:
        np.testing.assert_array_equal(dataset.train.record_ids, kept.train.record_ids)


def test_records_without_labels_are_shared_through_ray(store: Path, ray_cluster: None) -> None:
    shared = materialise(config(store, labels="none"))
    batch = next(shared.open().val.batches(5))
    assert batch.labels_BK.shape == (5, 0)
    np.testing.assert_array_equal(batch.ecg_BLT, next(load(config(store, labels="none")).val.batches(5)).ecg_BLT)
