"""Folds: disjoint by patient, stratified, and usable for validation and test."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.config import DataConfig
from data.dataset import Dataset, LabelSet
from data.folds import (
    ROLES,
    patient_folds,
    random_folds,
    rotated_roles,
    strata,
    stratified_folds,
    stratified_subset,
)
from data.ingest import ingest_serially
from data.loading import describe, load
from tests.data.toy_reader import LABEL_SETS, ToyReader


@given(labels=st.lists(st.integers(0, 1), max_size=300), seed=st.integers(0, 99))
def test_random_folds_differ_by_at_most_one_record_in_all_and_in_each_label(labels: list[int], seed: int) -> None:
    labels_N = np.array(labels, dtype=np.int8)
    folds_N = random_folds(labels_N, seed)
    assert np.ptp(np.bincount(folds_N, minlength=11)[1:]) <= 1
    for label in (0, 1):
        assert np.ptp(np.bincount(folds_N[labels_N == label], minlength=11)[1:]) <= 1


@settings(max_examples=30, deadline=None)
@given(
    n_windows=st.lists(st.integers(1, 30), min_size=10, max_size=40),
    prevalence=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
)
def test_a_patient_is_in_one_fold_only(n_windows: list[int], prevalence: float, seed: int) -> None:
    patient_ids = np.repeat([f"p{i}" for i in range(len(n_windows))], n_windows)
    labels_N = (np.random.default_rng(seed).random(len(patient_ids)) < prevalence).astype(np.int8)
    # scikit-learn needs some label with ten records.
    labels_N[:10] = 0
    folds_N = patient_folds(labels_N, patient_ids, seed)
    assert set(folds_N.tolist()) <= set(range(1, 11))
    for patient in set(patient_ids):
        assert len(set(folds_N[patient_ids == patient])) == 1


def test_validation_and_test_are_the_folds_nearest_to_the_whole() -> None:
    # Two patients have most of the records, so that some folds must be far from a tenth.
    patient_ids = np.repeat([f"p{i}" for i in range(22)], [400, 300, *[40] * 20])
    labels_N = np.tile([0, 0, 1], 500)[: len(patient_ids)]
    folds_N = patient_folds(labels_N, patient_ids, 0)
    off = np.array([abs((folds_N == fold).mean() - 0.1) for fold in range(1, 11)])
    assert max(off[8:]) <= min(off[:8])


def test_fewer_patients_than_folds_are_refused() -> None:
    with pytest.raises(ValueError, match="need at least 10 patients, but there are 9"):
        patient_folds(np.zeros(90, np.int8), np.repeat([*"abcdefghi"], 10), 0)


def test_roles_are_eight_folds_then_one_and_one() -> None:
    assert ROLES == {"train": (1, 2, 3, 4, 5, 6, 7, 8), "val": (9,), "test": (10,)}


PATIENTS = st.lists(st.integers(1, 6), min_size=12, max_size=60)  # records of each


@settings(max_examples=30, deadline=None)
@given(n_records=PATIENTS, k=st.integers(3, 12), n_labels=st.integers(1, 4), seed=st.integers(0, 99))
def test_stratified_folds_keep_patients_whole_and_sizes_near(
    n_records: list[int], k: int, n_labels: int, seed: int
) -> None:
    patient_ids = np.repeat([f"p{i}" for i in range(len(n_records))], n_records)
    labels_NK = (np.random.default_rng(seed).random((len(patient_ids), n_labels)) < 0.3).astype(np.float32)
    folds_N = stratified_folds(labels_NK, patient_ids, seed, k)
    fold_of = dict(zip(patient_ids.tolist(), folds_N.tolist(), strict=True))
    assert [fold_of[patient] for patient in patient_ids.tolist()] == folds_N.tolist()
    sizes = np.bincount(list(fold_of.values()), minlength=k + 1)[1:]
    assert sizes.sum() == len(n_records)
    assert np.ptp(sizes) <= 2 * n_labels + 2  # labels are evened out first, and cost some evenness of sizes


def test_stratified_folds_do_not_depend_on_the_order_of_records() -> None:
    rng = np.random.default_rng(18)
    patient_ids, labels_NK = np.repeat(np.arange(50).astype(str), 3), (rng.random((150, 4)) < 0.3).astype(np.float32)
    order = rng.permutation(150)
    folds_N = stratified_folds(labels_NK, patient_ids, 18, 5)
    np.testing.assert_array_equal(stratified_folds(labels_NK[order], patient_ids[order], 18, 5), folds_N[order])


@settings(max_examples=30, deadline=None)
@given(n_records=PATIENTS, ratio=st.floats(0.1, 1), seed=st.integers(0, 99))
def test_a_subset_is_a_share_of_whole_patients(n_records: list[int], ratio: float, seed: int) -> None:
    patient_ids = np.repeat([f"p{i}" for i in range(len(n_records))], n_records)
    labels_NK = (np.random.default_rng(seed).random((len(patient_ids), 3)) < 0.3).astype(np.float32)
    kept_N = stratified_subset(labels_NK, patient_ids, ratio, seed)
    assert not set(patient_ids[kept_N]) & set(patient_ids[~kept_N])
    assert abs(len(set(patient_ids[kept_N])) - ratio * len(n_records)) <= 4


def test_a_subset_has_every_label_as_often_as_the_whole() -> None:
    rng = np.random.default_rng(18)
    labels_NK = (rng.random((3000, 5)) < [0.5, 0.2, 0.1, 0.05, 0.02]).astype(np.float32)
    kept_N = stratified_subset(labels_NK, np.arange(3000).astype(str), 0.1, 18)
    np.testing.assert_allclose(labels_NK[kept_N].sum(axis=0), labels_NK.sum(axis=0) / 10, atol=1)


def test_a_share_that_leaves_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a share of 0.01 of 10 patients leaves none; .*data.finetune_label_ratio"):
        stratified_subset(np.ones((10, 1)), np.arange(10).astype(str), 0.01, 0)


def test_strata_are_labels_classes_or_quarters() -> None:
    nan = np.nan
    multilabel = np.array([[1, 0], [0, 0.5]])
    np.testing.assert_array_equal(strata(multilabel, LabelSet("m", "multilabel", ("a", "b"))), [[1, 0], [0, 1]])
    binary = np.array([[1], [0], [nan]])
    np.testing.assert_array_equal(strata(binary, LabelSet("b", "binary", ("a",))), [[0, 1], [1, 0], [0, 0]])
    classes = np.array([[2], [0], [nan]])
    expected = [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(strata(classes, LabelSet("c", "multiclass", ("a", "b", "c"))), expected)
    targets = np.array([[1], [2], [3], [4], [nan]])
    quarters = np.r_[np.eye(4), np.zeros((1, 4))]
    np.testing.assert_array_equal(strata(targets, LabelSet("r", "regression", ("a",))), quarters)


@pytest.mark.parametrize(("fold", "val", "train"), [(2, 3, (1, 4, 5)), (5, 1, (2, 3, 4))])
def test_in_a_cross_validation_the_next_fold_is_for_validation(fold: int, val: int, train: tuple[int, ...]) -> None:
    assert rotated_roles(5, fold) == {"train": train, "val": (val,), "test": (fold,)}


# --- folds and shares made at loading


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "toy"
    ingest_serially(ToyReader(n_records=200), path, n_records_per_shard=7)
    return path


def config(store: Path, **fields: Any) -> DataConfig:
    return DataConfig.model_validate({"store": str(store), "labels": "sex", **fields})


def whole(settings_: DataConfig) -> Dataset:
    return load(settings_, ("train", "val", "test"))


def records(dataset: Dataset) -> tuple[list[str], list[str], list[str]]:
    assert dataset.test is not None
    return tuple(split.record_ids.tolist() for split in (dataset.train, dataset.val, dataset.test))  # type: ignore[return-value]


@pytest.mark.parametrize("labels", LABEL_SETS)
def test_k_folds_are_disjoint_by_patient_and_test_every_record_once(store: Path, labels: str) -> None:
    tested: list[str] = []
    for fold in (1, 2, 3, 4):
        dataset = whole(config(store, labels=labels, k_fold={"k": 4, "fold": fold}, drop_unlabelled=False))
        assert dataset.test is not None
        patients = [set(split.patient_ids) for split in (dataset.train, dataset.val, dataset.test)]
        assert sum(map(len, patients)) == len(set.union(*patients)) == 100
        tested += dataset.test.record_ids.tolist()
    assert len(tested) == len(set(tested)) == 200


def test_the_validation_fold_is_the_next_turns_test_fold(store: Path) -> None:
    first, second = (whole(config(store, k_fold={"k": 5, "fold": fold})) for fold in (1, 2))
    assert records(first)[1] == records(second)[2]


def test_k_folds_depend_on_the_seed_alone(store: Path) -> None:
    def of(seed: int) -> tuple[list[str], list[str], list[str]]:
        return records(whole(config(store, k_fold={"k": 5, "fold": 2}, seed=seed)))

    assert of(1) == of(1)
    assert of(1) != of(2)


def test_adagrad_fusions_protocol_is_50_folds_by_role(store: Path) -> None:
    folds = {"train": [1, 2, 3, 4], "val": [5], "test": list(range(6, 51))}
    train, val, test = map(len, records(whole(config(store, k_fold={"k": 50}, folds=folds))))
    assert (train, val, test) == pytest.approx((16, 4, 180), abs=4)


def test_a_label_ratio_thins_the_training_patients_only(store: Path) -> None:
    every, some = whole(config(store)), whole(config(store, finetune_label_ratio=0.25))
    assert records(some)[1:] == records(every)[1:]
    assert set(some.train.record_ids) < set(every.train.record_ids)
    assert len(set(some.train.patient_ids)) == 20
    assert some.train.n_records == 40  # patients stay whole: two records each
    assert some.train.labels_NK.mean() == every.train.labels_NK.mean()


def test_a_description_counts_what_is_loaded(store: Path) -> None:
    settings_ = config(store, labels="rhythm", k_fold={"k": 5, "fold": 2}, finetune_label_ratio=0.5)
    counts, dataset = describe(settings_).counts, whole(settings_)
    for role in ("train", "val", "test"):
        split = getattr(dataset, role)
        assert counts[role] == (split.n_records, tuple(split.labels_NK.sum(axis=0)))


def test_other_processes_load_the_same_records(store: Path) -> None:
    settings_ = config(store, k_fold={"k": 5, "fold": 2}, finetune_label_ratio=0.3)
    code = (
        "import sys; from data.config import DataConfig; from data.loading import load\n"
        "dataset = load(DataConfig.model_validate_json(sys.argv[1]), ('train', 'val', 'test'))\n"
        "print([split.record_ids.tolist() for split in (dataset.train, dataset.val, dataset.test)])"
    )
    command = [sys.executable, "-c", code, settings_.model_dump_json()]
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(command, capture_output=True, check=True, text=True, encoding="utf-8", env=env)
    assert done.stdout.strip() == str(list(records(whole(settings_))))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k_fold": {"k": 2, "fold": 1}}, "greater than or equal to 3"),
        ({"k_fold": {"k": 5, "fold": 6}}, "fold must be one of 1 to k = 5, got 6"),
        ({"k_fold": {"k": 5}}, "k_fold needs its fold, or data.folds"),
        ({"k_fold": {"k": 5, "fold": 1}, "folds": {"train": [1], "val": [2]}}, "and not both"),
        ({"k_fold": {"k": 5}, "folds": {"train": [1], "val": [6]}}, "folds must be among 1 to k_fold.k = 5, got 6"),
        ({"finetune_label_ratio": 0}, "greater than 0"),
        ({"finetune_label_ratio": 10}, "less than or equal to 1"),
    ],
)
def test_folds_that_can_not_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(Path("s"), **fields)


def test_more_folds_than_patients_and_too_small_shares_are_refused_before_loading(store: Path, tmp_path: Path) -> None:
    ingest_serially(ToyReader(n_records=60), tmp_path / "s")
    with pytest.raises(ValueError, match="40 patient-disjoint folds need at least 40 patients, but there are 30"):
        describe(config(tmp_path / "s", k_fold={"k": 40, "fold": 1}))
    with pytest.raises(ValueError, match=r"a share of 0\.001 of 80 patients leaves none"):
        describe(config(store, finetune_label_ratio=0.001))
