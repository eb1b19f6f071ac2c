"""A split whose records lie in memory, the process's own or the node's shared one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.dataset import Batch
from data.order import rank_rows


class MemorySplit:
    """A `data.dataset.Split` over arrays, which may be read-only. Batches are copies, never views."""

    def __init__(
        self,
        ecg_NLT: NDArray[np.float32],
        length_N: NDArray[np.int32],
        labels_NK: NDArray[np.float32],
        record_ids: NDArray[np.str_],
        patient_ids: NDArray[np.str_],
    ) -> None:
        assert len(ecg_NLT) == len(length_N) == len(labels_NK) == len(record_ids) == len(patient_ids)
        self._ecg_NLT, self._length_N, self._labels_NK = ecg_NLT, length_N, labels_NK
        self._record_ids, self._patient_ids = record_ids, patient_ids

    @property
    def n_records(self) -> int:
        return len(self._ecg_NLT)

    @property
    def ecg_NLT(self) -> NDArray[np.float32]:
        """All records, possibly in shared memory: read only."""
        return self._ecg_NLT

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
                ecg_BLT=np.take(self._ecg_NLT, index_B, axis=0),
                labels_BK=np.take(self._labels_NK, index_B, axis=0),
                index_B=index_B,
                length_B=np.take(self._length_N, index_B),
            )
