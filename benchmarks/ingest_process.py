"""One ingestion as a process of its own: `python -m benchmarks.ingest_process {loop,serial,ray} SOURCE OUT`.

`loop` is what one would write without the platform: `wfdb.rdrecord` for each record of the table, appended to an HDF5
file. `serial` and `ray` are the platform's two ways to make a store.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import h5py
import pandas as pd
import wfdb

from benchmarks.node_memory import sampled
from data.ingest import ingest, ingest_serially
from data.kinds.ptbxl import PtbxlConfig, build_reader
from data.parallel import MOST_LOCAL_CPUS, running_ray


def main() -> int:
    """Run the command line, and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest_process", description=__doc__)
    parser.add_argument("way", choices=("loop", "serial", "ray"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cores", type=int, required=True, help="the process and all that it starts stay on so many")
    parser.add_argument("--memory", type=Path, metavar="FILE", help="write looks at the memory, a JSON line each")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    if options.way == "loop":
        copy_records(options.source, options.out)
    elif options.way == "serial":
        ingest_serially(build_reader(PtbxlConfig(source=str(options.source))), options.out)
    else:
        with running_ray(MOST_LOCAL_CPUS), nullcontext() if options.memory is None else sampled(options.memory):
            ingest(build_reader(PtbxlConfig(source=str(options.source))), options.out)
    return 0


def copy_records(source: Path, out: Path) -> None:
    """Append the signal of every record of the table to one HDF5 dataset; no labels, checks or checksums."""
    names = pd.read_csv(source / "ptbxl_database.csv").filename_lr
    with h5py.File(out, "w") as file:
        ecg = None
        for number, name in enumerate(names):
            signal_LT = wfdb.rdrecord(str(source / name)).p_signal.T
            if ecg is None:
                shape = (0, *signal_LT.shape)
                ecg = file.create_dataset("ecg", shape, "float32", chunks=(1, *shape[1:]), maxshape=(None, *shape[1:]))
            ecg.resize(number + 1, axis=0)
            ecg[number] = signal_LT


if __name__ == "__main__":
    sys.exit(main())
