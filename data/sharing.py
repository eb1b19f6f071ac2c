"""A prepared data set that all processes of a cluster share: references to arrays in Ray's object store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.bucket import fetch
from data.dataset import Dataset, LabelSet, Signal, Source, Split
from data.memory import MemorySplit
from data.preprocessing import output_lengths
from data.scaling import Statistics
from data.selection import Plan, Selection
from data.streaming import StreamedSplit

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class SharedSplit:
    """One role's records: the signal as one array in the object store, or None where it streams from the shards."""

    selection: ray.ObjectRef[Selection]
    ecg: ray.ObjectRef[np.ndarray] | None

    def open(self, plan: Plan, statistics: Statistics | None) -> Split:
        """Return the split, over read-only arrays in shared memory."""
        import ray

        selection = ray.get(self.selection)
        if self.ecg is None:
            fetch(plan.store)
            return StreamedSplit(plan, selection, statistics)
        return MemorySplit(
            ray.get(self.ecg),
            output_lengths(plan.steps, plan.stored_signal, selection.length_N),
            selection.labels_NK,
            selection.record_ids,
            selection.patient_ids,
        )


@dataclass(frozen=True)
class SharedDataset:
    """A data set that any process of the cluster can open without a copy. Small, and can be pickled through Ray.

    Attributes:
        statistics: of the training folds, for `zscore: {per: global}`.
        n_bad_records: records of corrupt shards that were left out (`skip_bad_records`).
    """

    plan: Plan
    splits: Mapping[str, SharedSplit]
    statistics: Statistics | None
    n_bad_records: int
    bad_shards: tuple[str, ...]

    @property
    def signal(self) -> Signal:
        """The signal after preprocessing."""
        return self.plan.signal

    @property
    def label_set(self) -> LabelSet:
        return self.plan.label_set

    @property
    def streamed_roles(self) -> tuple[str, ...]:
        """The roles that did not fit in memory."""
        return tuple(role for role, split in self.splits.items() if split.ecg is None)

    def open(self) -> Dataset:
        """Return the data set; roles that were not asked for are empty (train, val) or None (test)."""
        splits = {role: split.open(self.plan, self.statistics) for role, split in self.splits.items()}
        return build_dataset(self.plan, splits, self.statistics)


def build_dataset(plan: Plan, splits: Mapping[str, Split], statistics: Statistics | None) -> Dataset:
    """Join splits by role to a data set; roles without one are empty (train, val) or None (test)."""
    empty = _empty_split(plan)
    return Dataset(
        signal=plan.signal,
        label_set=plan.label_set,
        train=splits.get("train", empty),
        val=splits.get("val", empty),
        test=splits.get("test"),
        source=Source(plan.store, plan.fingerprint, _preprocessing(plan, statistics), plan.features_bytes),
    )


def _preprocessing(plan: Plan, statistics: Statistics | None) -> str:
    steps = [step.model_dump_json(exclude_none=True) for step in plan.steps]
    return " ".join([*steps, str(statistics)])


def _empty_split(plan: Plan) -> MemorySplit:
    signal = plan.signal
    n_columns = 1 if plan.label_set.task == "multiclass" else plan.label_set.n_outputs
    return MemorySplit(
        np.empty((0, len(signal.lead_names), signal.n_timesteps), np.float32),
        np.empty(0, np.int32),
        np.empty((0, n_columns), np.float32),
        np.empty(0, np.str_),
        np.empty(0, np.str_),
    )
