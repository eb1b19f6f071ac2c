"""Experts over the records of a store through Ray Data: each task takes its share of the records, batch by batch.

M: records that are asked for, B: records of a batch, D: features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from data.dataset import Split
from trainables.expert_features import expert_function
from trainables.experts.table import AnyExpertConfig, build_expert
from trainables.features import Answered, FrozenFunction, batches_of

if TYPE_CHECKING:
    from data.sharing import SharedDataset


Role = Literal["train", "val"]


@dataclass(frozen=True)
class Tasks:
    """How a pass is spread: so many tasks, each with its CPUs and GPUs and its own copy of the expert."""

    number: int
    cpus: int
    gpus: int


@dataclass(frozen=True)
class ExpertPass:
    """One expert over one split of a shared data set, from the driver: a `trainables.features.Fill`."""

    config: AnyExpertConfig
    precision: str
    dataset: SharedDataset
    role: Role
    tasks: Tasks

    def __call__(self, function: FrozenFunction, split: Split, row_M: NDArray[np.int64]) -> Iterator[Answered]:
        from data.parallel import stream_items  # Ray takes a second to import

        share = ExpertShare(self, row_M)
        blocks = stream_items(share, range(self.tasks.number), self.tasks.cpus, self.tasks.gpus)
        for block in blocks:
            yield from _runs(block["position"], block["features"])


@dataclass(frozen=True)
class ExpertShare:
    """What each task of a pass does; travels to the workers, and builds the expert there."""

    whole: ExpertPass
    row_M: NDArray[np.int64]

    def __call__(self, columns: dict[str, NDArray[np.int64]]) -> Iterator[dict[str, Any]]:
        for rank in columns["item"].tolist():
            yield from self._answer(rank)

    def _answer(self, rank: int) -> Iterator[dict[str, Any]]:
        whole = self.whole
        torch.set_num_threads(max(1, whole.tasks.cpus))
        device = torch.device("cuda" if whole.tasks.gpus else "cpu")
        dataset = whole.dataset.open()
        expert = build_expert(whole.config, whole.dataset.signal)
        function = expert_function(whole.config.kind, expert, whole.precision, device)
        split = dataset.train if whole.role == "train" else dataset.val
        for first, ecg_BLT in batches_of(split, self.row_M, rank, whole.tasks.number):
            features_BD = function.answer(ecg_BLT)
            yield {"position": np.arange(first, first + len(features_BD)), "features": features_BD}


def _runs(position_B: NDArray[np.int64], features_BD: NDArray[np.float32]) -> Iterator[Answered]:
    """Cut rows into runs of neighbours: a block may have those of several batches."""
    starts = np.flatnonzero(np.diff(position_B, prepend=position_B[0] - 2) != 1)
    for start, stop in zip(starts, [*starts[1:], len(position_B)], strict=True):
        yield Answered(int(position_B[start]), np.asarray(features_BD[start:stop], np.float32))
