"""Which records of a store a role is made of, and the one way to decode them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.bucket import fetch
from data.checksums import UNKNOWN, changed_records
from data.counts import labelled_mask
from data.dataset import FEATURES_BYTES, LabelSet, Signal
from data.folds import strata, stratified_folds, stratified_subset
from data.preprocessing import Step, output_signal, preprocess
from data.reader import RecordTable
from data.store import CorruptShard, Manifest, Shard, read_ecg


@dataclass(frozen=True)
class Plan:
    """What is read from a store, and what is made of it. Small, and can be pickled."""

    store: Path  # absolute, since workers run in other folders
    fingerprint: str  # of the store
    shards: tuple[Shard, ...]
    stored_signal: Signal
    steps: tuple[Step, ...]
    label_set: LabelSet
    folds: Mapping[str, tuple[int, ...]]  # by role
    drop_unlabelled: bool
    finetune_label_ratio: float = 1.0  # share of the training patients
    seed: int = 18  # of that share
    features_bytes: int = FEATURES_BYTES

    @property
    def signal(self) -> Signal:
        """The signal after preprocessing."""
        return output_signal(self.steps, self.stored_signal)

    def fetch(self, shard: int) -> None:
        """Have the shard of that index on this node."""
        fetch(self.store / self.shards[shard].file)


@dataclass(frozen=True)
class Selection:
    """The N records of one role in the order of the store: all that is known of them but the signal."""

    shard_N: NDArray[np.int64]  # index of the shard in the plan
    row_N: NDArray[np.int64]  # in the shard
    length_N: NDArray[np.int32]  # stored timesteps; the rest of a record is padding
    labels_NK: NDArray[np.float32]
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    sums_N: NDArray[np.uint64]  # `data.checksums`, of a role that streams

    def __len__(self) -> int:
        return len(self.shard_N)

    def take(self, rows: NDArray[np.bool_]) -> Selection:
        """Return some of the records."""
        return Selection(**{name: values[rows] for name, values in vars(self).items()})


def stored_signal(manifest: Manifest) -> Signal:
    """Return the signal as the store has it."""
    return Signal(manifest.lead_names, manifest.fs_hz, manifest.n_timesteps)


def select(plan: Plan, tables: Mapping[int, RecordTable], role: str) -> Selection:
    """Select the records of `role` from the tables of the good shards (by index in the plan)."""
    parts = [_select_from(plan, index, tables[index], role) for index in sorted(tables)]
    assert parts, "a store without good shards is refused before"
    selection = Selection(
        shard_N=np.concatenate([part.shard_N for part in parts]),
        row_N=np.concatenate([part.row_N for part in parts]),
        length_N=np.concatenate([part.length_N for part in parts]),
        labels_NK=np.concatenate([part.labels_NK for part in parts]),
        record_ids=np.concatenate([part.record_ids for part in parts]),
        patient_ids=np.concatenate([part.patient_ids for part in parts]),
        sums_N=np.concatenate([part.sums_N for part in parts]),
    )
    if role != "train" or plan.finetune_label_ratio == 1 or not len(selection):
        return selection
    labels_NK = strata(selection.labels_NK, plan.label_set)
    return selection.take(stratified_subset(labels_NK, selection.patient_ids, plan.finetune_label_ratio, plan.seed))


def refold(
    tables: Mapping[int, RecordTable], label_set: LabelSet, n_folds: int, seed: int
) -> Mapping[int, RecordTable]:
    """Return the tables with folds 1 to `n_folds` made anew, stratified by the label set, patients whole.

    Depends on the records, not on their order nor on the process.

    Raises:
        ValueError: there are fewer patients than folds.
    """
    indices = sorted(tables)
    labels_NK = np.concatenate([labels_in(tables[index], label_set) for index in indices])
    patient_ids = np.concatenate([tables[index].patient_ids for index in indices])
    folds_N = stratified_folds(strata(labels_NK, label_set), patient_ids, seed, n_folds)
    bounds = np.cumsum([len(tables[index].folds) for index in indices])[:-1]
    parts = np.split(folds_N, bounds)
    return {index: replace(tables[index], folds=part) for index, part in zip(indices, parts, strict=True)}


def decode(
    plan: Plan,
    shard: int,
    row_R: NDArray[np.int64],
    length_R: NDArray[np.int32],
    sums_R: NDArray[np.uint64] | None = None,
) -> NDArray[np.float32]:
    """Read and preprocess the given rows (ascending) of one shard to ecg_RLT; a global z-score is left to the caller.

    Args:
        length_R: the stored timesteps of those records.
        sums_R: their checksums, where they were taken.

    Raises:
        CorruptShard: the shard can't be read, or has changed since the checksums were taken.
    """
    if not len(row_R):
        signal = plan.signal
        return np.empty((0, len(signal.lead_names), signal.n_timesteps), np.float32)
    first, last = int(row_R[0]), int(row_R[-1])
    ecg_NLT = read_ecg(plan.store, plan.shards[shard], slice(first, last + 1))
    if len(row_R) < len(ecg_NLT):
        ecg_NLT = ecg_NLT[row_R - first]
    if sums_R is not None and len(changed := changed_records(ecg_NLT, sums_R)):
        raise CorruptShard(
            f"{plan.store / plan.shards[shard].file} has changed while it was in use: record {int(row_R[changed[0]])} "
            f"(and {len(changed) - 1} more of {len(row_R)}) fails its checksum; ingest the data set anew"
        )
    if not plan.steps:
        return ecg_NLT  # as stored, without another pass over memory
    return preprocess(ecg_NLT, plan.steps, plan.stored_signal, length_R)


def labels_in(table: RecordTable, label_set: LabelSet) -> NDArray[np.float32]:
    """Return the labels_NK of a label set; no columns without labels."""
    if label_set.task == "unlabelled":
        return np.empty((len(table.record_ids), 0), np.float32)
    return table.labels[label_set.name]


def _select_from(plan: Plan, index: int, table: RecordTable, role: str) -> Selection:
    labels_NK = labels_in(table, plan.label_set)
    mask = np.isin(table.folds, plan.folds[role])
    if plan.drop_unlabelled and plan.label_set.task != "unlabelled":
        mask &= labelled_mask(labels_NK, plan.label_set)
    rows = np.flatnonzero(mask)
    return Selection(
        shard_N=np.full(len(rows), index),
        row_N=rows,
        length_N=table.length_N[rows],
        labels_NK=labels_NK[rows],
        record_ids=table.record_ids[rows],
        patient_ids=table.patient_ids[rows],
        sums_N=np.full(len(rows), UNKNOWN, np.uint64),
    )
