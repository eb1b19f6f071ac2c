"""The data set as a trial sees it, whether it lies in memory or streams from disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

FEATURES_BYTES: Final = 50_000_000_000
Task = Literal["binary", "multilabel", "multiclass", "regression", "unlabelled"]
"""unlabelled: `data.labels: none`, for pretraining; the others are learned from labels."""


@dataclass(frozen=True)
class Signal:
    """The shape of one record after preprocessing."""

    lead_names: tuple[str, ...]
    fs_hz: float
    n_timesteps: int
    standardise_windows: bool = False
    """z-score each lead of each window (crop), inside the model: `zscore: {per: segment}`."""


@dataclass(frozen=True)
class LabelSet:
    """The columns of `labels_NK`: 0/1 for binary (K = 1) and multilabel, class index for multiclass
    (one column), real values in `units` for regression (NaN where missing), none at all for unlabelled."""

    name: str
    task: Task
    names: tuple[str, ...]
    units: tuple[str, ...] = ()

    @property
    def n_outputs(self) -> int:
        return len(self.names)


NO_LABELS = LabelSet("none", "unlabelled", ())


class Batch(NamedTuple):
    """B records, copied out of the split: writable, and safe to hand to torch.

    `index_B` is each record's position in its split, the same in every epoch and process; from `length_B` timesteps on
    a record is padding (zero).
    """

    ecg_BLT: NDArray[np.float32]
    labels_BK: NDArray[np.float32]
    index_B: NDArray[np.int64]
    length_B: NDArray[np.int32]


class Split(Protocol):
    """The records of one role (train, val, test). N records, L leads, T timesteps, K label columns."""

    @property
    def n_records(self) -> int: ...
    @property
    def length_N(self) -> NDArray[np.int32]: ...
    @property
    def labels_NK(self) -> NDArray[np.float32]: ...
    @property
    def record_ids(self) -> NDArray[np.str_]: ...
    @property
    def patient_ids(self) -> NDArray[np.str_]: ...

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield each global batch of `batch_size` records, in stored or in shuffled order.

        With `world_size` > 1 a rank gets its slice of every global batch (slices differ by at most one
        record, and may be empty in the last); the order depends on `shuffle_seed` alone.
        """


@dataclass(frozen=True)
class Source:
    """What the records of a data set follow from, but for their ids.

    Attributes:
        store: the folder of the shards, absolute.
        fingerprint: of the store.
        preprocessing: the steps, with the statistics of those that are fitted to the training records.
        features_bytes: that what frozen networks make of the store's records may take beside it.
    """

    store: Path
    fingerprint: str
    preprocessing: str
    features_bytes: int = FEATURES_BYTES


@dataclass(frozen=True)
class Dataset:
    """What a method trains on. Trials get no test split. `source` is None where records come from no store."""

    signal: Signal
    label_set: LabelSet
    train: Split
    val: Split
    test: Split | None = None
    source: Source | None = None
