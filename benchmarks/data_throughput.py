"""How fast a trial reads its data, and how much memory the data takes: `python -m benchmarks.data_throughput`.

Records/s are measured inside a trial of a real sweep, on 4,000 records of 12 leads x 1,000 timesteps, without
preprocessing: from the arrays that the platform shares, from tensors of the trial's own, from shuffled
HDF5 through h5py and a DataLoader, and from Parquet through Ray Data, the last two anew each epoch. The
sources take turns. Copies of the data are the slope of the node's memory between a small and the whole
data set, divided by the data's own size, while two trials read at the same time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.child import run_child
from benchmarks.machine import read_machine
from benchmarks.node_memory import NodeMemory, read_samples
from benchmarks.reading import Source, metric
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.ingest import ingest_serially
from data.store import read_manifest, read_shard
from data.synthetic import SyntheticConfig, SyntheticReader
from platform.sweeps.journal import SweepRecord, read_events, replay

LEAST_RATIO: Final = 0.8  # of plain tensors
MOST_COPIES: Final = 1.3
N_SMALL: Final = 100  # records of the data set that stands for none
N_TRIALS: Final = 2  # at the same time, for the copies

SPEC: Final = """\
name: reading
method: reading
data: {{store: {store}, folds: {{train: [1, 2, 3, 4, 5, 6, 7, 8, 9], val: [10]}}}}
params:
  sources: [{sources}]
  epoch_s: {epoch_s}
  hdf5: {store}
  parquet: {parquet}
  replica: {{choice: {replicas}}}
search: {{metric: val/shared_records_per_s, mode: max, sampler: grid, scheduler: none}}
budget: {{trials: {n_trials}, epochs: {epochs}}}
resources: {{concurrency: {n_trials}}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""

NAMES: Final[dict[Source, tuple[str, str]]] = {
    "shared": ("this platform", "arrays in the object store, shared by all trials"),
    "tensors": ("plain tensors in memory", "a copy of its own, index_select"),
    "hdf5": ("shuffled h5py", "a DataLoader over open files, page cache warm"),
    "ray_data": ("Ray Data, read anew", "Parquet, shuffle buffer of 1,024 records"),
}


@dataclass(frozen=True)
class Stores:
    """One data set on disk: our HDF5 store, and the same records as Parquet for Ray Data."""

    hdf5: Path
    parquet: Path
    n_bytes: int  # of the signal in memory


@dataclass(frozen=True)
class Settings:
    """How long to measure."""

    n_records: int
    repeats: int
    epochs: int
    epoch_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    settings = Settings(options.records, options.repeats, options.epochs, options.epoch_s)
    machine = read_machine()
    if machine.n_cores < N_TRIALS:
        print(f"error: two trials at a time need at least {N_TRIALS} cores, but there is 1", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="data-throughput-") as folder:
        whole = make_stores(Path(folder) / "whole", settings.n_records)
        small = make_stores(Path(folder) / "small", N_SMALL)
        speed, ratio = measure_speed(whole, settings, Path(folder))
        copies = measure_copies(whole, small, settings, Path(folder))
    title = f"Reading {settings.n_records:,} x 12 x 1,000 inside a trial ({whole.n_bytes / 2**20:.0f} MiB)"
    bars = (Bar(ratio, ">=", LEAST_RATIO), Bar(copies[0], "<=", MOST_COPIES))
    return conclude(Result(title, machine, (*speed, ratio, *copies), bars), options)


def make_stores(folder: Path, n_records: int) -> Stores:
    """Make synthetic records, and write them in both formats."""
    stores = Stores(folder / "hdf5", folder / "parquet", n_records * 12 * 1000 * 4)
    ingest_serially(SyntheticReader(SyntheticConfig(task="rhythm", n_records=n_records)), stores.hdf5)
    stores.parquet.mkdir()
    for shard in read_manifest(stores.hdf5).shards:
        block = read_shard(stores.hdf5, shard)
        (labels_NK,) = block.labels.values()
        columns = {
            name: pa.FixedShapeTensorArray.from_numpy_ndarray(array)  # the type that Ray Data reads as tensors
            for name, array in (("ecg", block.ecg_NLT), ("labels", labels_NK))
        }
        pq.write_table(pa.table(columns), stores.parquet / f"{Path(shard.file).stem}.parquet")
    return stores


# ---------------------------------------------------------------------- speed


def measure_speed(stores: Stores, settings: Settings, folder: Path) -> tuple[list[Figure], Figure]:
    """Return records/s of every source after the first epoch, and ours as a part of plain tensors'."""
    reports: list[dict[str, float]] = []
    first: list[float] = []
    for _ in range(settings.repeats):
        record, _ = _sweep(stores, settings, folder, sources=list(NAMES), n_trials=1)
        (trial,) = record.trials.values()
        first.append(trial.reports[1][metric("shared")])
        reports += [trial.reports[epoch] for epoch in sorted(trial.reports) if epoch > 1]
    figures = [
        Figure(name, "records/s", tuple(report[metric(source)] for report in reports), note)
        for source, (name, note) in NAMES.items()
    ]
    figures.insert(1, Figure("this platform, epoch 1", "records/s", tuple(first), "the first look at the shared pages"))
    ratios = tuple(report[metric("shared")] / report[metric("tensors")] for report in reports)
    return figures, Figure("this platform / plain tensors", "", ratios, "epoch by epoch, after the first")


# ---------------------------------------------------------------------- memory


def measure_copies(whole: Stores, small: Stores, settings: Settings, folder: Path) -> tuple[Figure, Figure, Figure]:
    """Return how many copies of the data two trials hold together: in all, in processes, and in the store's file."""
    totals, processes, files = [], [], []
    for _ in range(settings.repeats):
        with_data, without = (_steady_memory(stores, settings, folder) for stores in (whole, small))
        n_bytes = whole.n_bytes - small.n_bytes
        processes.append((with_data.processes_bytes - without.processes_bytes) / n_bytes)
        totals.append(processes[-1] + (with_data.objects_bytes - without.objects_bytes) / n_bytes)
        files.append((with_data.store_file_bytes - without.store_file_bytes) / n_bytes)
    return (
        Figure("copies of the data, two trials", "copies", tuple(totals), "PSS and objects in the object store"),
        Figure("  of these in processes", "copies", tuple(processes), "PSS without the object store"),
        Figure("  pages of the store's file", "copies", tuple(files), "freed objects' pages, kept for reuse, included"),
    )


def _steady_memory(stores: Stores, settings: Settings, folder: Path) -> NodeMemory:
    """Return the median memory while both trials read, after their first two epochs."""
    record, samples = _sweep(stores, settings, folder, sources=["shared"], n_trials=N_TRIALS)
    trials = record.trials.values()
    begin_s = max(trial.report_times_s[2] for trial in trials)
    end_s = min(trial.report_times_s[settings.epochs] for trial in trials)
    steady = [sample for sample in samples if begin_s <= sample.time_s <= end_s]
    if not steady:
        raise RuntimeError(f"no look at the memory while both trials read ({end_s - begin_s:.1f} s); raise --epoch-s")
    return NodeMemory(
        time_s=begin_s,
        processes_bytes=int(statistics.median(sample.processes_bytes for sample in steady)),
        driver_bytes=int(statistics.median(sample.driver_bytes for sample in steady)),
        objects_bytes=int(statistics.median(sample.objects_bytes for sample in steady)),
        store_file_bytes=int(statistics.median(sample.store_file_bytes for sample in steady)),
    )


def _sweep(
    stores: Stores, settings: Settings, folder: Path, *, sources: Sequence[str], n_trials: int
) -> tuple[SweepRecord, list[NodeMemory]]:
    """Run a sweep in a process of its own; return its journal and the looks at its memory."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        own = Path(name)
        fields: dict[str, Any] = {
            "store": stores.hdf5,
            "parquet": stores.parquet,
            "sources": ", ".join(sources),
            "epoch_s": settings.epoch_s,
            "replicas": list(range(n_trials)),
            "n_trials": n_trials,
            "epochs": settings.epochs,
            "folder": own,
        }
        (own / "reading.yaml").write_text(SPEC.format(**fields), encoding="utf-8")
        module = ["benchmarks.sweep_process", "--memory", str(own / "memory.jsonl")]
        run_child([*module, str(own / "reading.yaml"), "--runs", str(own / "runs")], own)
        (sweep,) = (own / "runs").iterdir()
        record = replay(read_events(sweep))
        states = [trial.state for trial in record.trials.values()]
        if states != ["COMPLETED"] * n_trials:
            raise RuntimeError(f"{n_trials} trials should have completed, but they are {states}")
        return record, read_samples(own / "memory.jsonl")


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_throughput", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="sweeps of each kind (default: 3)")
    parser.add_argument("--epoch-s", type=float, default=2.0, help="seconds of each source an epoch (default: 2)")
    parser.add_argument("--epochs", type=int, default=5, help=argparse.SUPPRESS)
    parser.add_argument("--records", type=int, default=4000, help=argparse.SUPPRESS)  # smoke test: fewer
    options = parser.parse_args(arguments)
    for name, least in (("repeats", 1), ("epochs", 3), ("records", 2 * N_SMALL)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, but got {getattr(options, name)}")
    if options.epoch_s <= 0:
        parser.error(f"--epoch-s must be above 0, but got {options.epoch_s:g}")
    return options


if __name__ == "__main__":
    sys.exit(main())
