"""Experts before training: what they make of every record is computed once, and stands in the records' place.

B, N: records, L: leads, T: timesteps, F: features of all experts, P: the numbers that stand for a record.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.dataset import Batch, Dataset, Split
from data.memory import MemorySplit
from data.order import rank_rows
from trainables.enecg_network import EnsembleNetwork
from trainables.experts.expert import Expert
from trainables.features import FeatureCache, FeatureSplit, FrozenFunction, KeptFeatures


@dataclass(frozen=True)
class PackedSplit(FeatureSplit):
    """Records are packed_B1P: the features of all experts, then the leads of the gate.

    Attributes:
        features: of each expert for them.
        rows: the gate's leads.
    """

    features: Sequence[KeptFeatures]
    rows: tuple[int, ...]

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        if isinstance(self.base, MemorySplit):
            for batch in self._of_memory(self.base, batch_size, shuffle_seed, rank, world_size):
                yield self._packed(batch, batch.ecg_BLT)
            return
        for batch in self.base.batches(batch_size, shuffle_seed=shuffle_seed, rank=rank, world_size=world_size):
            yield self._packed(batch, batch.ecg_BLT[:, self.rows])

    def _of_memory(
        self, base: MemorySplit, batch_size: int, shuffle_seed: int | None, rank: int, world_size: int
    ) -> Iterator[Batch]:
        """Yield the gate's leads alone: a copy of the others would take longer than a step."""
        for index_B in rank_rows(base.n_records, batch_size, shuffle_seed, rank, world_size):
            lead_BGT = base.ecg_NLT[index_B[:, None], list(self.rows)]
            yield Batch(lead_BGT, base.labels_NK[index_B], index_B, base.length_N[index_B])

    def _packed(self, batch: Batch, lead_BGT: NDArray[np.float32]) -> Batch:
        parts = [*(kept.take(batch.index_B) for kept in self.features), lead_BGT.reshape(len(lead_BGT), -1)]
        return batch._replace(ecg_BLT=np.concatenate(parts, axis=1)[:, None])


def expert_function(kind: str, expert: Expert, precision: str, device: torch.device) -> FrozenFunction:
    """Return an expert as a function of records; it is moved to `device` when it is asked."""

    def compute(ecg_BLT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            features_BD: Tensor = expert.to(device)(ecg_BLT)
        return features_BD

    return FrozenFunction(kind, f"{_identity(expert)} {precision} {device.type}", compute, device)


@lru_cache(maxsize=32)
def _identity(expert: Expert) -> str:
    return expert.identity  # of a shared expert it is asked for in every trial, and reads all weights


def with_expert_features(
    model: EnsembleNetwork, kinds: Sequence[str], precision: str, dataset: Dataset, device: torch.device
) -> Dataset:
    """Put the experts' features in the records' place, and let `model` take them.

    Losses, metrics and checkpoints stay the same, but for rounding. `dataset` is returned as it is, and `model` left
    alone, where records come from no store.

    Args:
        kinds: of the experts.

    Raises:
        ValueError: as `FeatureCache.get`.
    """
    if dataset.source is None or 0 in (dataset.train.n_records, dataset.val.n_records):  # the trainer will refuse it
        return dataset
    splits = (dataset.train, dataset.val)
    train, val = (packed(model, kinds, precision, split, dataset, device) for split in splits)
    model.reads_features = True
    return replace(dataset, train=train, val=val)


def packed(
    model: EnsembleNetwork, kinds: Sequence[str], precision: str, split: Split, dataset: Dataset, device: torch.device
) -> PackedSplit:
    """Return a split of `dataset` with its experts' features, for a model that `reads_features`."""
    assert dataset.source is not None
    cache, found = FeatureCache.beside(dataset.source), []
    for kind, expert in zip(kinds, model.experts, strict=True):
        assert isinstance(expert, Expert)
        found.append(cache.get(expert_function(kind, expert, precision, device), split, dataset.source))
    return PackedSplit(split, found, model.gate_rows)
