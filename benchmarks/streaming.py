"""How fast data that do not fit in memory are read, and how well they are mixed: `python -m benchmarks.streaming`.

A store of 20 shards, sorted by label, is read with the loader of large data sets (`data.streaming`) and with the one
of data in memory, in turns: the loader alone, from a warm page cache and with its pages dropped before; and an epoch
of the shared trainer with xresnet1d18 on one thread. Records have 12 leads x 1,000 timesteps in float32.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks.machine import read_machine
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.config import DataConfig, FoldsConfig
from data.dataset import Dataset, LabelSet, Split
from data.ingest import ingest_serially
from data.leads import LEADS_12
from data.loading import build_plan, check_shards, read_dataset, select_role
from data.reader import Header, RecordBlock
from data.streaming import StreamedSplit
from trainables.plain_trial import PlainTrial
from trainables.supervised import SUPERVISED, SupervisedConfig

LEAST_RECORDS_PER_S: Final = 5000
MOST_EPOCH_RATIO: Final = 1.3
MOST_CORRELATION: Final = 0.1
MOST_OF_A_BATCH: Final = 0.25
N_SHARDS: Final = 20
N_TIMESTEPS: Final = 1000
BATCH_SIZE: Final = 128


@dataclass(frozen=True)
class SortedReader:
    """Noise, in shards of one label each. Of a shard's records, the first is for validation."""

    shard_records: int
    n_shards: int = N_SHARDS

    @property
    def header(self) -> Header:
        return Header(
            kind="sorted",
            source="noise",
            options={"shard_records": self.shard_records, "n_shards": self.n_shards},
            lead_names=LEADS_12,
            fs_hz=100.0,
            n_timesteps=N_TIMESTEPS,
            label_sets={"shard": LabelSet("shard", "multiclass", tuple(map(str, range(self.n_shards))))},
            folds={"train": (1,), "val": (2,), "test": ()},
            patients_known=False,
        )

    def chunks(self) -> Sequence[int]:
        return range(self.n_shards)

    def read(self, chunk: int) -> RecordBlock:
        n_records = self.shard_records
        shape = (n_records, len(LEADS_12), N_TIMESTEPS)
        ids = np.array([f"{chunk}-{row}" for row in range(n_records)])
        return RecordBlock(
            ecg_NLT=np.random.default_rng(chunk).standard_normal(shape, np.float32),
            length_N=np.full(n_records, N_TIMESTEPS, np.int32),
            labels={"shard": np.full((n_records, 1), chunk, np.float32)},
            record_ids=ids,
            patient_ids=ids,
            folds=np.where(np.arange(n_records) == 0, 2, 1).astype(np.int16),
        )


@dataclass(frozen=True)
class Sources:
    """The same records twice."""

    memory: Dataset
    stream: Dataset
    files: tuple[Path, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="streaming-", dir=options.folder) as folder:
        whole = make_sources(Path(folder) / "whole", options.shard_records)
        loader, floor = measure_loaders(whole, options.repeats)
        mixing = measure_mixing(whole.stream.train)
        del whole
        epochs, ratio = measure_epochs(make_sources(Path(folder) / "epoch", options.epoch_records), options.repeats)
    bars = (
        Bar(floor, ">=", LEAST_RECORDS_PER_S),
        Bar(ratio, "<=", MOST_EPOCH_RATIO),
        Bar(mixing[0], "<=", MOST_CORRELATION),
        Bar(mixing[1], "<=", MOST_OF_A_BATCH),
    )
    n_records = N_SHARDS * options.shard_records
    title = f"Streaming {n_records:,} x 12 x {N_TIMESTEPS:,} ({n_records * 48_000 / 2**20:,.0f} MiB, {N_SHARDS} shards)"
    return conclude(Result(title, machine, (*loader, *epochs, ratio, *mixing), bars), options)


def make_sources(folder: Path, shard_records: int) -> Sources:
    """Make a store, and open it from memory and as a stream."""
    manifest = ingest_serially(SortedReader(shard_records), folder, n_records_per_shard=shard_records)
    config = DataConfig(store=str(folder), folds=FoldsConfig(train=(1,), val=(2,)))
    memory = read_dataset(config).dataset
    plan = build_plan(config)
    selection = select_role(plan, check_shards(config, plan, [""] * len(plan.shards)), "train")
    stream = replace(memory, train=StreamedSplit(plan, selection))
    return Sources(memory, stream, tuple(folder / shard.file for shard in manifest.shards))


# ---------------------------------------------------------------------- the loader alone


def measure_loaders(sources: Sources, repeats: int) -> tuple[list[Figure], Figure]:
    """Return records/s of both loaders, and the figure that has a bar."""
    ways: dict[str, Callable[[int], float]] = {
        "memory": lambda seed: records_per_s(sources.memory.train, seed),
        "warm": lambda seed: records_per_s(sources.stream.train, seed),
        "cold": lambda seed: records_per_s_cold(sources, seed),
    }
    ways["warm"](0)  # fills the page cache
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(1, repeats + 1):
        for name in ("memory", "warm"):
            rates[name].append(ways[name](seed))
    for seed in range(1, repeats + 1):
        rates["cold"].append(ways["cold"](seed))
    parts = [warm / memory for warm, memory in zip(rates["warm"], rates["memory"], strict=True)]
    warm = Figure("streamed, page cache warm", "records/s", tuple(rates["warm"]), "the loader alone")
    figures = [
        Figure("from memory", "records/s", tuple(rates["memory"]), "the loader alone"),
        warm,
        Figure("streamed / from memory", "", tuple(parts), "aim: a third"),
        Figure("streamed, disk cold", "records/s", tuple(rates["cold"]), "pages dropped by posix_fadvise"),
    ]
    return figures, warm


def records_per_s(split: Split, seed: int) -> float:
    """Read one epoch."""
    begin_s = time.perf_counter()
    n_records = sum(len(batch.ecg_BLT) for batch in split.batches(BATCH_SIZE, shuffle_seed=seed))
    return n_records / (time.perf_counter() - begin_s)


def records_per_s_cold(sources: Sources, seed: int) -> float:
    """Read one epoch whose pages the system does not hold; the disk's own cache may."""
    for path in sources.files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return records_per_s(sources.stream.train, seed)


# ---------------------------------------------------------------------- mixing


def measure_mixing(split: Split) -> tuple[Figure, Figure]:
    """Return how far an epoch's order follows the store's, and the most that a batch has of one shard."""
    correlations, shares = [], []
    for seed in range(1, 4):
        batches = list(read_labels(split, seed))
        position_N = np.concatenate([index_B for index_B, _ in batches])
        correlations.append(abs(float(spearmanr(position_N, np.arange(len(position_N))).statistic)))
        counts = [np.bincount(shard_B).max() for _, shard_B in batches if len(shard_B) == BATCH_SIZE]
        shares.append(float(max(counts)) / BATCH_SIZE)
    return (
        Figure("order correlation", "", tuple(correlations), "Spearman, place in the store and in the epoch"),
        Figure("most of a batch from one shard", "", tuple(shares), f"batches of {BATCH_SIZE}; sorted by label"),
    )


def read_labels(split: Split, seed: int) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (positions, labels) of each batch."""
    return [
        (batch.index_B, batch.labels_BK[:, 0].astype(np.int64))
        for batch in split.batches(BATCH_SIZE, shuffle_seed=seed)
    ]


# ---------------------------------------------------------------------- an epoch of training


def measure_epochs(sources: Sources, repeats: int) -> tuple[list[Figure], Figure]:
    """Return the seconds of an epoch from both, in turns, and their ratio."""
    pairs = []
    for seed in range(1, repeats + 1):
        stream_first = (epoch_s(sources.stream, seed),) if seed % 2 == 0 else ()  # who goes first meets a cold machine
        memory_s = epoch_s(sources.memory, seed)
        (stream_s,) = stream_first or (epoch_s(sources.stream, seed),)
        pairs.append((memory_s, stream_s))
    note = f"xresnet1d18, one thread, {sources.memory.train.n_records:,} records"
    figures = [
        Figure("epoch from memory", "s", tuple(memory for memory, _ in pairs), note),
        Figure("epoch streamed", "s", tuple(stream for _, stream in pairs), note),
    ]
    return figures, Figure("epoch streamed / from memory", "", tuple(stream / memory for memory, stream in pairs))


def epoch_s(dataset: Dataset, seed: int) -> float:
    """Train one epoch with the shared trainer."""
    trial = PlainTrial(seed)
    SUPERVISED.train(SupervisedConfig(model="xresnet1d18", epochs=1, batch_size=BATCH_SIZE), dataset, trial)
    return trial.reports[1]["epoch_s"]


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each kind (default: 3)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the store is made, on the disk to measure")
    parser.add_argument("--shard-records", type=int, default=1398, help=argparse.SUPPRESS)  # 64 MiB
    parser.add_argument("--epoch-records", type=int, default=300, help=argparse.SUPPRESS)  # a shard, to train on
    options = parser.parse_args(arguments)
    for name, least in (("repeats", 1), ("shard_records", 2), ("epoch_records", 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, but got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
