"""A method that only reads its data, from the sweep's own shared arrays and from what else one might read it from."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import h5py
import numpy as np
import ray.data
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks import noop
from data.dataset import Dataset, LabelSet, Signal, Split
from trainables.config import TrainConfig
from trainables.method import Method
from trainables.trial import State, Trial

Source = Literal["shared", "tensors", "hdf5", "ray_data"]
Batches = Iterator[tuple[Tensor, Tensor]]  # (ecg_BLT, labels_BK)
Epoch = Callable[[int], Batches]

SHUFFLE_BUFFER: Final = 1024  # records that Ray Data shuffles among


def metric(source: Source) -> str:
    """Return the name of the metric that holds a source's records/s."""
    return f"val/{source}_records_per_s"


class ReadingConfig(TrainConfig):
    """The parameters of `method: reading`."""

    sources: Annotated[tuple[Source, ...], Field(strict=False, min_length=1)] = Field(
        get_args(Source), description="What to read from, in turn."
    )
    epoch_s: float = Field(1.0, gt=0, description="How long to read from a source, at least.")
    hdf5: str = Field("", description="Store of HDF5 shards.")
    parquet: str = Field("", description="Folder of Parquet files with tensors `ecg` and `labels`.")
    replica: int = Field(0, ge=0, description="Tells trials of one sweep apart.")


def build_model(config: ReadingConfig, signal: Signal, label_set: LabelSet) -> torch.nn.Module:
    """Build the smallest model that can be saved and exported, ecg_BLT -> logits_BK."""
    return noop.build_model(noop.NoopConfig(), signal, label_set)


def train(config: ReadingConfig, dataset: Dataset, trial: Trial) -> None:
    """Read from every source in turn, each epoch anew, and report records/s; in epoch 1 read once."""
    assert config.epochs is not None
    model = build_model(config, dataset.signal, dataset.label_set)
    epochs = {source: _OPEN[source](config, dataset.train) for source in config.sources}

    def state() -> State:
        return {"model": model.state_dict(), "thresholds": [0.5] * dataset.label_set.n_outputs}

    for epoch in range(1, config.epochs + 1):
        rates = records_per_s(epochs, epoch, at_least_s=0.0 if epoch == 1 else config.epoch_s)
        trial.report(epoch, {metric(source): rate for source, rate in rates.items()}, state)


def records_per_s(epochs: Mapping[Source, Epoch], seed: int, at_least_s: float) -> dict[Source, float]:
    """Read whole passes, each in an order of its own, until every source has had `at_least_s`.

    Sources take turns pass by pass, so that all of them meet the same load of the machine.
    """
    n_records, taken_s = dict.fromkeys(epochs, 0), dict.fromkeys(epochs, 0.0)
    waiting = list(epochs)
    while waiting:
        for source in waiting:
            begin_s = time.perf_counter()
            n_records[source] += sum(len(ecg_BLT) for ecg_BLT, _ in epochs[source](seed + n_records[source]))
            taken_s[source] += time.perf_counter() - begin_s
        waiting = [source for source in waiting if taken_s[source] < at_least_s]
    return {source: n_records[source] / taken_s[source] for source in epochs}


# ---------------------------------------------------------------------- sources


def _open_shared(config: ReadingConfig, split: Split) -> Epoch:
    """Read as the shared trainer does: from the arrays that all trials of the node share."""

    def read(seed: int) -> Batches:
        for batch in split.batches(config.batch_size, shuffle_seed=seed):
            yield torch.from_numpy(batch.ecg_BLT), torch.from_numpy(batch.labels_BK)

    return read


def _open_tensors(config: ReadingConfig, split: Split) -> Epoch:
    """Copy everything into tensors of this process, and gather batches from them."""
    (everything,) = split.batches(split.n_records)
    ecg_NLT, labels_NK = torch.from_numpy(everything.ecg_BLT), torch.from_numpy(everything.labels_BK)

    def read(seed: int) -> Batches:
        order_N = torch.randperm(len(ecg_NLT), generator=torch.Generator().manual_seed(seed))
        for start in range(0, len(order_N), config.batch_size):
            index_B = order_N[start : start + config.batch_size]
            # Twice as fast as `ecg_NLT[index_B]` (torch 2.13): the others are held against the best.
            yield ecg_NLT.index_select(0, index_B), labels_NK.index_select(0, index_B)

    return read


class Hdf5Records(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Records read one by one from HDF5 shards that stay open."""

    def __init__(self, store: Path) -> None:
        self._files = [h5py.File(path, "r") for path in sorted(store.glob("*.h5"))]
        self._ends = list(accumulate(len(file["ecg"]) for file in self._files))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shard = bisect_right(self._ends, index)
        file, row = self._files[shard], index - (self._ends[shard - 1] if shard else 0)
        (labels,) = file["labels"].values()
        return torch.from_numpy(file["ecg"][row]), torch.from_numpy(np.atleast_1d(labels[row]))


def _open_hdf5(config: ReadingConfig, split: Split) -> Epoch:
    """Read shuffled records through h5py and a DataLoader; the files are in the page cache."""
    records = Hdf5Records(Path(config.hdf5))

    def read(seed: int) -> Batches:
        generator = torch.Generator().manual_seed(seed)
        yield from DataLoader(records, config.batch_size, shuffle=True, generator=generator)

    return read


def _open_ray_data(config: ReadingConfig, split: Split) -> Epoch:
    """Read Parquet through a Ray Data pipeline of this trial, each epoch anew."""
    files = sorted(str(path) for path in Path(config.parquet).glob("*.parquet"))
    ray.data.DataContext.get_current().enable_progress_bars = False

    def read(seed: int) -> Batches:
        batches = ray.data.read_parquet(files).iter_torch_batches(
            batch_size=config.batch_size, local_shuffle_buffer_size=SHUFFLE_BUFFER, local_shuffle_seed=seed
        )
        for batch in batches:
            yield batch["ecg"], batch["labels"]

    return read


_OPEN: Final[Mapping[Source, Callable[[ReadingConfig, Split], Epoch]]] = {
    "shared": _open_shared,
    "tensors": _open_tensors,
    "hdf5": _open_hdf5,
    "ray_data": _open_ray_data,
}


READING = Method(
    "reading", ReadingConfig, build_model, train, lambda task: frozenset(metric(source) for source in get_args(Source))
)
