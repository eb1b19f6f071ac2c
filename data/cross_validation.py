"""Cross-validation: the records of the training and validation folds, dealt anew to k pairs of splits.

N: records of both together, the training folds' first; F: folds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.dataset import Batch, Dataset, Split
from data.folds import strata, stratified_folds, stratified_subset
from data.memory import MemorySplit
from data.order import rank_rows
from data.selection import Selection
from data.sharing import SharedDataset
from data.streaming import StreamedSplit

POOLED = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class FoldedDataset(Dataset):
    """A data set with its k pairs of training and validation splits."""

    folds: tuple[Dataset, ...]


@dataclass(frozen=True)
class FoldPlan:
    """Which records each of F folds trains and validates on."""

    train_FN: NDArray[np.bool_]
    val_FN: NDArray[np.bool_]

    @staticmethod
    def of(dataset: Dataset, k: int, seed: int, train_ratio: float = 1.0) -> FoldPlan:
        """Deal the patients of the training and validation splits to k folds, every label evenly.

        Depends on the records, the seed and k alone: every trial of every sweep has the same folds.

        Args:
            train_ratio: share of each fold's training patients that is kept; validation stays whole.

        Raises:
            ValueError: there are fewer patients than folds, or the ratio leaves none.
        """
        splits = (dataset.train, dataset.val)
        labels_NK = strata(np.concatenate([split.labels_NK for split in splits]), dataset.label_set)
        patient_ids = np.concatenate([split.patient_ids for split in splits])
        folds_N = stratified_folds(labels_NK, patient_ids, seed, k)
        val_FN = folds_N == np.arange(1, k + 1)[:, None]
        train_FN = ~val_FN
        for train_N in train_FN:
            rows = np.flatnonzero(train_N)
            train_N[rows] = stratified_subset(labels_NK[rows], patient_ids[rows], train_ratio, seed)
        return FoldPlan(train_FN, val_FN)


@dataclass(frozen=True)
class CrossValidation:
    """A shared data set and its folds, as trials get them. Can be pickled through Ray."""

    shared: SharedDataset
    plan: FoldPlan

    def open(self) -> FoldedDataset:
        """Return the data set with its folds, over the same arrays in shared memory."""
        dataset = self.shared.open()
        pool = self._pool() if self.shared.streamed_roles else None

        def pick(rows_N: NDArray[np.bool_]) -> Split:
            if pool is not None:
                return StreamedSplit(self.shared.plan, _in_store_order(pool.take(rows_N)), self.shared.statistics)
            assert isinstance(dataset.train, MemorySplit) and isinstance(dataset.val, MemorySplit)
            return JoinedSplit(dataset.train, dataset.val, np.flatnonzero(rows_N))

        folds = tuple(
            Dataset(dataset.signal, dataset.label_set, pick(train_N), pick(val_N), source=dataset.source)
            for train_N, val_N in zip(self.plan.train_FN, self.plan.val_FN, strict=True)
        )
        return FoldedDataset(
            dataset.signal, dataset.label_set, dataset.train, dataset.val, source=dataset.source, folds=folds
        )

    def _pool(self) -> Selection:
        import ray

        train, val = (vars(ray.get(self.shared.splits[role].selection)) for role in POOLED)
        return Selection(**{name: np.concatenate([train[name], val[name]]) for name in train})


def _in_store_order(selection: Selection) -> Selection:
    order = np.lexsort((selection.row_N, selection.shard_N))
    return Selection(**{name: values[order] for name, values in vars(selection).items()})


class JoinedSplit:
    """Some records of two splits in memory, as one `data.dataset.Split`; the signal is not copied.

    Args:
        rows: ascending; those from `first.n_records` on are of `second`.
    """

    def __init__(self, first: MemorySplit, second: MemorySplit, rows: NDArray[np.int64]) -> None:
        self._first_NLT, self._second_NLT, self._rows = first.ecg_NLT, second.ecg_NLT, rows
        self._length_N = np.concatenate([first.length_N, second.length_N])[rows]
        self._labels_NK = np.concatenate([first.labels_NK, second.labels_NK])[rows]
        self._record_ids = np.concatenate([first.record_ids, second.record_ids])[rows]
        self._patient_ids = np.concatenate([first.patient_ids, second.patient_ids])[rows]

    @property
    def n_records(self) -> int:
        return len(self._rows)

    @property
    def length_N(self) -> NDArray[np.int32]:
        return self._length_N

    @property
    def labels_NK(self) -> NDArray[np.float32]:
        return self._labels_NK

    @property
    def record_ids(self) -> NDArray[np.str_]:
        return self._record_ids

    @property
    def patient_ids(self) -> NDArray[np.str_]:
        return self._patient_ids

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield this rank's slice of each global batch; see `data.dataset.Split.batches`."""
        for index_B in rank_rows(self.n_records, batch_size, shuffle_seed, rank, world_size):
            yield Batch(
                ecg_BLT=self._ecg(self._rows[index_B]),
                labels_BK=self._labels_NK[index_B],
                index_B=index_B,
                length_B=self._length_N[index_B],
            )

    def _ecg(self, row_B: NDArray[np.int64]) -> NDArray[np.float32]:
        ecg_BLT = np.empty((len(row_B), *self._first_NLT.shape[1:]), np.float32)
        in_first_B = row_B < len(self._first_NLT)
        ecg_BLT[in_first_B] = self._first_NLT[row_B[in_first_B]]
        ecg_BLT[~in_first_B] = self._second_NLT[row_B[~in_first_B] - len(self._first_NLT)]
        return ecg_BLT
