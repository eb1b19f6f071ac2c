"""Counting records by fold and label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet
from data.reader import RecordBlock, RecordTable
from data.store import Counts


def labelled_mask(labels_NK: NDArray[np.float32], label_set: LabelSet) -> NDArray[np.bool_]:
    """Return which records have a label: any positive one (multilabel), any known value (the other tasks)."""
    if label_set.task == "multilabel":
        return np.asarray((labels_NK > 0).any(axis=1))
    return np.asarray(np.isfinite(labels_NK).any(axis=1))


def label_counts(labels_NK: NDArray[np.float32], label_set: LabelSet) -> tuple[int, ...]:
    """Return the number of records of each label; of a regression, the number of known values of each target."""
    if label_set.task == "unlabelled":
        return ()
    if label_set.task == "multiclass":
        known = labels_NK[np.isfinite(labels_NK)].astype(np.int64)
        return tuple(int(n) for n in np.bincount(known, minlength=label_set.n_outputs))
    present_NK = np.isfinite(labels_NK) if label_set.task == "regression" else labels_NK > 0
    return tuple(int(n) for n in present_NK.sum(axis=0))


def count(block: RecordBlock | RecordTable, label_sets: Mapping[str, LabelSet]) -> Counts:
    """Count the records of one block; its patients are left to the caller, as they may lie in several blocks."""
    rows = {int(fold): block.folds == fold for fold in np.unique(block.folds)}
    return Counts(
        n_records=len(block.folds),
        n_patients=None,
        n_quarantined=0 if isinstance(block, RecordTable) else len(block.quarantined),
        records={fold: int(mask.sum()) for fold, mask in rows.items()},
        labelled={
            name: {fold: int(labelled_mask(block.labels[name][mask], each).sum()) for fold, mask in rows.items()}
            for name, each in label_sets.items()
        },
        labels={
            name: {fold: label_counts(block.labels[name][mask], each) for fold, mask in rows.items()}
            for name, each in label_sets.items()
        },
    )


def add(parts: Iterable[Counts], label_sets: Mapping[str, LabelSet], n_patients: int | None) -> Counts:
    """Add the counts of disjoint blocks."""
    parts = list(parts)
    folds = sorted({fold for part in parts for fold in part.records})
    return Counts(
        n_records=sum(part.n_records for part in parts),
        n_patients=n_patients,
        n_quarantined=sum(part.n_quarantined for part in parts),
        records=_sum(part.records for part in parts),
        labelled={name: _sum(part.labelled[name] for part in parts) for name in label_sets},
        labels={
            name: {fold: add_labels(part.labels[name].get(fold, ()) for part in parts) for fold in folds}
            for name in label_sets
        },
    )


def add_labels(counts: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Add label counts element by element; empty ones count as zeros."""
    return tuple(sum(column) for column in zip(*(row for row in counts if row), strict=True))


def _sum(counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))
