"""Folds: disjoint by patient, stratified, and usable for validation and test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.folds import ROLES, patient_folds, random_folds


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
