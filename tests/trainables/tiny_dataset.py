"""Small data sets in memory, for tests: signals whose label shows in one lead, learnt in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.dataset import Batch, Dataset, LabelSet, Signal, Task
from data.leads import LEADS_12

N_LEADS = 3
N_TIMESTEPS = 64
FS_HZ = 50.0


@dataclass(frozen=True)
class TinySplit:
    """A `data.dataset.Split` over arrays, read-only like those that trials share; lengths default to the whole.

    Records are numbered from `first` on, so that no two of a data set have one id.
    """

    ecg_NLT: NDArray[np.float32]
    labels_NK: NDArray[np.float32]
    lengths: tuple[int, ...] | None = None
    first: int = 0

    def __post_init__(self) -> None:
        self.ecg_NLT.flags.writeable = False
        self.labels_NK.flags.writeable = False

    @property
    def n_records(self) -> int:
        return len(self.ecg_NLT)

    @property
    def length_N(self) -> NDArray[np.int32]:
        whole = (self.ecg_NLT.shape[2],) * self.n_records
        return np.array(whole if self.lengths is None else self.lengths, np.int32)

    @property
    def record_ids(self) -> NDArray[np.str_]:
        return np.array([f"r{self.first + i}" for i in range(self.n_records)])

    @property
    def patient_ids(self) -> NDArray[np.str_]:
        return self.record_ids

    def batches(
        self, batch_size: int, *, shuffle_seed: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        order = np.arange(self.n_records)
        if shuffle_seed is not None:
            np.random.default_rng(shuffle_seed).shuffle(order)
        for start in range(0, self.n_records, batch_size):
            rows = np.array_split(order[start : start + batch_size], world_size)[rank]
            yield Batch(self.ecg_NLT[rows], self.labels_NK[rows], rows, self.length_N[rows])


LABEL_SETS: dict[Task, LabelSet] = {
    "binary": LabelSet("tiny", "binary", ("fast",)),
    "multilabel": LabelSet("tiny", "multilabel", ("fast", "tall")),
    "multiclass": LabelSet("tiny", "multiclass", ("slow", "fast", "faster")),
    "regression": LabelSet("tiny", "regression", ("rate",), units=("ms",)),
}


def tiny_dataset(task: Task = "binary", n_train: int = 96, n_val: int = 48, n_timesteps: int = N_TIMESTEPS) -> Dataset:
    """Build records of sine waves whose frequency and height carry the labels."""
    signal = Signal(LEADS_12[:N_LEADS], FS_HZ, n_timesteps)
    sizes = (n_train, n_val, n_val)
    train, val, test = (_split(task, n, seed, n_timesteps, sum(sizes[:seed])) for seed, n in enumerate(sizes))
    return Dataset(signal, LABEL_SETS[task], train, val, test)


def _split(task: Task, n: int, seed: int, n_timesteps: int, first: int) -> TinySplit:
    rng = np.random.default_rng(seed)
    speed_N = rng.integers(0, 3 if task == "multiclass" else 2, size=n)
    tall_N = rng.integers(0, 2, size=n)
    frequency_hz = 2.0 + 4.0 * speed_N
    if task == "regression":
        frequency_hz = rng.uniform(2, 8, size=n)
    time_s = np.arange(n_timesteps) / FS_HZ
    phase_N = rng.uniform(0, 2 * np.pi, size=n)
    wave_NT = np.sin(2 * np.pi * frequency_hz[:, None] * time_s + phase_N[:, None]) * (1 + tall_N[:, None])
    ecg_NLT = rng.normal(0, 0.3, size=(n, N_LEADS, n_timesteps))
    ecg_NLT[:, 0] += wave_NT
    columns: dict[Task, list[NDArray[Any]]] = {
        "binary": [speed_N],
        "multiclass": [speed_N],
        "multilabel": [speed_N, tall_N],
        "regression": [500 + 40 * frequency_hz],
    }
    return TinySplit(ecg_NLT.astype(np.float32), np.stack(columns[task], axis=1).astype(np.float32), first=first)
