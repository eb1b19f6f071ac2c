"""What a reader of one kind of data set gives to ingestion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from data.dataset import LabelSet


@dataclass(frozen=True)
class Header:
    """What holds for every record of a data set. Becomes part of `dataset.json`."""

    kind: str
    source: str  # for messages and for people
    options: Mapping[str, Any]  # the kind's configuration: what a store with the same ones would repeat
    lead_names: tuple[str, ...]
    fs_hz: float
    n_timesteps: int
    label_sets: Mapping[str, LabelSet]
    folds: Mapping[str, tuple[int, ...]]  # role -> fold numbers: {"train": (1, ..., 8), "val": (9,), "test": (10,)}
    patients_known: bool
    notes: tuple[str, ...] = ()  # what a user of the data must know, e.g. that folds may leak patients


class Quarantined(NamedTuple):
    """A record that is not taken in, and why, in one line."""

    record_id: str
    reason: str


@dataclass(frozen=True)
class RecordBlock:
    """N records: L leads in mV, T timesteps, K columns of each label set.

    Attributes:
        length_N: timesteps of each record; from there on its row of `ecg_NLT` is zero.
        quarantined: records that belong here, but can't be taken in.
    """

    ecg_NLT: NDArray[np.float32]
    length_N: NDArray[np.int32]
    labels: Mapping[str, NDArray[np.float32]]  # label set -> labels_NK
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    folds: NDArray[np.int16]
    meta: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # age (years), sex (0 male, 1 female)
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True)
class RecordTable:
    """A `RecordBlock` without its signal."""

    length_N: NDArray[np.int32]
    labels: Mapping[str, NDArray[np.float32]]
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    folds: NDArray[np.int16]
    meta: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


def take_rows(block: RecordBlock, rows: slice) -> RecordBlock:
    """Return some records of a block, and nothing of what it quarantined."""
    return RecordBlock(
        ecg_NLT=block.ecg_NLT[rows],
        length_N=block.length_N[rows],
        labels={name: labels_NK[rows] for name, labels_NK in block.labels.items()},
        record_ids=block.record_ids[rows],
        patient_ids=block.patient_ids[rows],
        folds=block.folds[rows],
        meta={name: values_N[rows] for name, values_N in block.meta.items()},
    )


def join_blocks(blocks: Sequence[RecordBlock]) -> RecordBlock:
    """Return the records of several blocks of one data set in one."""
    first = blocks[0]
    return RecordBlock(
        ecg_NLT=np.concatenate([block.ecg_NLT for block in blocks]),
        length_N=np.concatenate([block.length_N for block in blocks]),
        labels={name: np.concatenate([block.labels[name] for block in blocks]) for name in first.labels},
        record_ids=np.concatenate([block.record_ids for block in blocks]),
        patient_ids=np.concatenate([block.patient_ids for block in blocks]),
        folds=np.concatenate([block.folds for block in blocks]),
        meta={name: np.concatenate([block.meta[name] for block in blocks]) for name in first.meta},
        quarantined=tuple(each for block in blocks for each in block.quarantined),
    )


class Reader(Protocol):
    """One kind of data set. Construction checks the source and reads its tables; records come chunk by chunk."""

    @property
    def header(self) -> Header: ...

    def chunks(self) -> Sequence[Any]:
        """Return small picklable descriptions of pieces of work, in the order of the records."""

    def read(self, chunk: Any) -> RecordBlock:
        """Read the records of one chunk; runs in any process. A record that can't be read is quarantined.

        Raises:
            ValueError: the source itself is malformed; the message names the file, the row or record, and the rule.
        """
