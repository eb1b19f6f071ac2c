"""Stratified folds for data sets that come without any, ten of them: 1-8 train, 9 validation, 10 test.

scikit-learn is imported where it is used: it takes a second, and the workers that import this module never fold.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet

N_FOLDS = 10
N_BINS = 4  # a regression target is stratified by its quartiles
ROLES: Mapping[str, tuple[int, ...]] = MappingProxyType({"train": tuple(range(1, 9)), "val": (9,), "test": (10,)})


def random_folds(labels_N: NDArray[np.integer], seed: int) -> NDArray[np.int16]:
    """Deal records to folds 1-10 at random, every label evenly. Sizes differ by at most one, per label too."""
    shuffled = np.random.default_rng(seed).permutation(len(labels_N))
    by_label = shuffled[np.argsort(labels_N[shuffled], kind="stable")]
    folds_N = np.empty(len(labels_N), np.int16)
    folds_N[by_label] = np.arange(len(labels_N)) % N_FOLDS + 1
    return folds_N


def patient_folds(labels_N: NDArray[np.integer], patient_ids: NDArray[np.str_], seed: int) -> NDArray[np.int16]:
    """Assign every patient whole to one of folds 1-10, stratified by label.

    With few patients folds differ in size and prevalence; the two that are nearest to the whole become
    9 (validation) and 10 (test), so that neither ends up with a single label where this can be helped.

    Raises:
        ValueError: there are fewer than ten patients.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    n_patients = len(np.unique(patient_ids))
    if n_patients < N_FOLDS:
        raise ValueError(
            f"{N_FOLDS} patient-disjoint folds need at least {N_FOLDS} patients, but there are {n_patients}; "
            "add patients, or leave the record ids out for random folds"
        )
    splitter = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    raw_N = np.empty(len(labels_N), np.int64)
    with warnings.catch_warnings():
        # A label rarer than the folds can't be in each of them; `data.loading` refuses a fold that lacks it.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for fold, (_, rows) in enumerate(splitter.split(labels_N, labels_N, patient_ids)):
            raw_N[rows] = fold
    numbers = np.empty(N_FOLDS, np.int16)
    numbers[np.argsort(-_imbalance(raw_N, labels_N), kind="stable")] = np.arange(1, N_FOLDS + 1)
    return numbers[raw_N]


def stratified_folds(
    labels_NK: NDArray[np.floating], patient_ids: NDArray[np.str_], seed: int, n_folds: int = N_FOLDS
) -> NDArray[np.int16]:
    """Assign every patient whole to one of folds 1 to `n_folds`, every label evenly.

    Iterative stratification (Sechidis et al. 2011, doi:10.1007/978-3-642-23808-6_10) of the patients by the labels
    that any of their records has. Where patients are unknown, pass the record ids.

    Raises:
        ValueError: there are fewer patients than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    patients, patient_N = np.unique(patient_ids, return_inverse=True)
    if len(patients) < n_folds:
        raise ValueError(
            f"{n_folds} patient-disjoint folds need at least {n_folds} patients, but there are {len(patients)}; "
            "add patients, or ask for fewer folds"
        )
    labels_PK = _patient_labels(labels_NK, patient_N, len(patients))
    splitter = MultilabelStratifiedKFold(n_folds, shuffle=True, random_state=seed)
    folds_P = np.empty(len(patients), np.int16)
    for fold, (_, rows) in enumerate(splitter.split(labels_PK, labels_PK), start=1):
        folds_P[rows] = fold
    return folds_P[patient_N]


def stratified_subset(
    labels_NK: NDArray[np.floating], patient_ids: NDArray[np.str_], ratio: float, seed: int
) -> NDArray[np.bool_]:
    """Choose a share of the patients, every label evenly, by iterative stratification; returns the mask of records.

    Where patients are unknown, pass the record ids.

    Raises:
        ValueError: the ratio leaves no patient.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    patients, patient_N = np.unique(patient_ids, return_inverse=True)
    n_kept = round(ratio * len(patients))
    if n_kept == len(patients):
        return np.ones(len(patient_ids), np.bool_)
    if not n_kept:
        raise ValueError(
            f"a share of {ratio:g} of {len(patients)} patients leaves none; ask for more in data.finetune_label_ratio"
        )
    labels_PK = _patient_labels(labels_NK, patient_N, len(patients))
    splitter = MultilabelStratifiedShuffleSplit(
        1, train_size=n_kept, test_size=len(patients) - n_kept, random_state=seed
    )
    ((kept, _),) = splitter.split(labels_PK, labels_PK)
    return np.asarray(np.isin(patient_N, kept))


def strata(labels_NK: NDArray[np.floating], label_set: LabelSet) -> NDArray[np.float32]:
    """Return 0/1 columns to stratify by: labels, classes one column each, or quarters of a regression target;
    one column of ones where there are no labels."""
    if label_set.task == "unlabelled":
        return np.ones((len(labels_NK), 1), np.float32)
    if label_set.task == "multiclass":
        return np.asarray(labels_NK == np.arange(label_set.n_outputs), np.float32)
    if label_set.task == "binary":
        return np.asarray(labels_NK == np.arange(2), np.float32)
    if label_set.task == "multilabel":
        return np.asarray(labels_NK > 0, np.float32)
    columns = [_quarters(target_N) for target_N in labels_NK.T]
    return np.concatenate(columns, axis=1)


def fold_roles(n_folds: int) -> Mapping[str, tuple[int, ...]]:
    """Return which of `n_folds` folds are for what: the last for test, the one before for validation.

    Raises:
        ValueError: there are fewer than three.
    """
    if n_folds < 3:
        raise ValueError(f"train, validation and test need at least 3 folds, got {n_folds}")
    return {"train": tuple(range(1, n_folds - 1)), "val": (n_folds - 1,), "test": (n_folds,)}


def rotated_roles(n_folds: int, fold: int) -> Mapping[str, tuple[int, ...]]:
    """Return the roles of one turn of a cross-validation: `fold` for test, the next one for validation."""
    val = fold % n_folds + 1
    return {
        "train": tuple(each for each in range(1, n_folds + 1) if each not in (fold, val)),
        "val": (val,),
        "test": (fold,),
    }


def _patient_labels(
    labels_NK: NDArray[np.floating], patient_N: NDArray[np.integer], n_patients: int
) -> NDArray[np.int8]:
    """Return the labels that any of a patient's records has, and a last column for those without any."""
    labels_PK = np.zeros((n_patients, labels_NK.shape[1] + 1), np.int8)
    np.maximum.at(labels_PK[:, :-1], patient_N, (labels_NK > 0).astype(np.int8))
    labels_PK[:, -1] = ~labels_PK[:, :-1].any(axis=1)  # they are spread evenly too
    return labels_PK


def _quarters(target_N: NDArray[np.floating]) -> NDArray[np.float32]:
    known = target_N[np.isfinite(target_N)]
    bounds = np.quantile(known, np.arange(1, N_BINS) / N_BINS) if len(known) else np.zeros(N_BINS - 1)
    bin_N = np.searchsorted(bounds, target_N, side="right")
    return np.asarray((bin_N[:, None] == np.arange(N_BINS)) & np.isfinite(target_N)[:, None], np.float32)


def _imbalance(folds_N: NDArray[np.int64], labels_N: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return, for each fold, how far its label counts are from a tenth of the whole, relatively, summed over labels."""
    values, codes_N = np.unique(labels_N, return_inverse=True)
    counts_FC = np.zeros((N_FOLDS, len(values)))
    np.add.at(counts_FC, (folds_N, codes_N), 1)
    return np.asarray(np.abs(counts_FC / counts_FC.mean(axis=0) - 1).sum(axis=1))
