"""What a reader of one kind of data set gives to ingestion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet


@dataclass(frozen=True)
class Header:
    """What holds for every record of a data set. Becomes part of `dataset.json`."""

    kind: str
    source: str
    lead_names: tuple[str, ...]
    fs_hz: float
    n_timesteps: int
    label_sets: Mapping[str, LabelSet]
    folds: Mapping[str, tuple[int, ...]]  # role -> fold numbers: {"train": (1, ..., 8), "val": (9,), "test": (10,)}
    patients_known: bool
    notes: tuple[str, ...] = ()  # what a user of the data must know, e.g. that folds may leak patients


@dataclass(frozen=True)
class RecordBlock:
    """N records: L leads in mV, T timesteps, K columns of each label set."""

    ecg_NLT: NDArray[np.float32]
    labels: Mapping[str, NDArray[np.float32]]  # label set -> labels_NK
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    folds: NDArray[np.int16]
    meta: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # age (years), sex (0 male, 1 female)


@dataclass(frozen=True)
class RecordTable:
    """A `RecordBlock` without its signal."""

    labels: Mapping[str, NDArray[np.float32]]
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    folds: NDArray[np.int16]
    meta: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class Reader(Protocol):
    """One kind of data set. Construction checks the source and reads its tables; records come chunk by chunk."""

    @property
    def header(self) -> Header: ...

    def chunks(self) -> Sequence[Any]:
        """Return small picklable descriptions of pieces of work, in the order of the records."""

    def read(self, chunk: Any) -> RecordBlock:
        """Read the records of one chunk; runs in any process.

        Raises:
            ValueError: a record is malformed; the message names the file, the row or record, and the rule.
        """
