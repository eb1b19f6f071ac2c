"""How fast recordings become a store, and in how much memory: `python -m benchmarks.ingest`.

Synthetic WFDB records of 12 leads x 1,000 timesteps in PTB-XL's layout are read from a warm page cache. Each contender
takes a few and then many records, each time as a process of its own on one or two cores; records/s are the slope
between the two wall times, so that imports and Ray's start, the same in both, drop out. They are reported apart, as
what is left of the shorter run. Peak memory (all processes and the object store) is that of whole runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.child import run_child
from benchmarks.machine import read_machine
from benchmarks.node_memory import read_samples
from benchmarks.result import Bar, Figure, Result, add_options, conclude
from data.leads import LEADS_12
from data.store import read_manifest

LEAST_RATIO: Final = 1.7  # of the loop, on two cores
MOST_MEMORY_RATIO: Final = 1.2  # at ten times the records
N_TIMESTEPS: Final = 1000
FOLDER_RECORDS: Final = 1000  # as PTB-XL has them
STATEMENTS: Final = """\
,description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass
NORM,normal ECG,1.0,,,NORM,NORM
IMI,inferior myocardial infarction,1.0,,,MI,IMI
LVH,left ventricular hypertrophy,1.0,,,HYP,LVH
PVC,ventricular premature complex,,1.0,,,
SR,sinus rhythm,,,1.0,,
"""
COLUMNS: Final = "ecg_id,patient_id,age,sex,scp_codes,strat_fold,filename_lr,filename_hr"


@dataclass(frozen=True)
class Contender:
    """A way to take records in: the process's `way`, and how many records its slope is between."""

    name: str
    note: str
    way: str
    cores: int
    few: int
    many: int


CONTENDERS: Final = (
    Contender("wfdb + h5py loop, 1 core", "rdrecord, appended to one HDF5 file", "loop", 1, 250, 1000),
    Contender("this platform, 1 core, no Ray", "ingest_serially", "serial", 1, 2000, 10000),
    Contender("this platform, 1 core", "python -m platform.ingest", "ray", 1, 2000, 10000),
    Contender("this platform, 2 cores", "python -m platform.ingest", "ray", 2, 2000, 20000),
)


@dataclass(frozen=True)
class Measured:
    """Of one contender, repeat by repeat."""

    records_per_s: tuple[float, ...]
    start_s: tuple[float, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return its exit code."""
    options = _parse_arguments(arguments)
    machine = read_machine()
    if machine.n_cores < 2:
        print("error: two cores are needed, but there is 1", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.folder) as folder:
        sources = Sources(Path(folder))
        speeds = measure_speed(sources, options.repeats, options.records)
        few, many = measure_memory(sources, options.memory_records, options.memory_repeats)
    loop, two_cores = speeds[CONTENDERS[0].name], speeds[CONTENDERS[-1].name]
    ratio = _ratio("2 cores / loop", two_cores.records_per_s, loop.records_per_s)
    growth = _ratio("peak memory, ten times the records", many.values, few.values)
    figures = [
        *(Figure(each.name, "records/s", speeds[each.name].records_per_s, each.note) for each in CONTENDERS),
        ratio,
        Figure("start of this platform, 2 cores", "s", two_cores.start_s, "imports, Ray; not in records/s"),
        Figure("start of the loop", "s", loop.start_s, "imports; not in records/s"),
        few,
        many,
        growth,
    ]
    title = f"Ingestion of WFDB records of 12 x {N_TIMESTEPS:,} from a warm page cache"
    bars = (Bar(ratio, ">=", LEAST_RATIO), Bar(growth, "<=", MOST_MEMORY_RATIO))
    return conclude(Result(title, machine, tuple(figures), bars), options)


# ---------------------------------------------------------------------- speed


def measure_speed(sources: Sources, repeats: int, most_records: int | None) -> dict[str, Measured]:
    """Return records/s and start of each contender; repeats go round, so that all meet the same load."""
    measured = {each.name: Measured((), ()) for each in CONTENDERS}
    for repeat in range(1, repeats + 1):
        for each in CONTENDERS:
            many = each.many if most_records is None else min(each.many, most_records)
            few = min(each.few, many // 2)
            few_s, many_s = (_wall_s(each, sources, n_records) for n_records in (few, many))
            rate = (many - few) / (many_s - few_s)
            before = measured[each.name]
            measured[each.name] = Measured(
                (*before.records_per_s, rate), (*before.start_s, max(0.0, few_s - few / rate))
            )
            print(f"repeat {repeat}: {each.name} {rate:,.0f} records/s", file=sys.stderr)
    return measured


def _wall_s(contender: Contender, sources: Sources, n_records: int) -> float:
    source = sources.of(n_records)
    with tempfile.TemporaryDirectory(dir=sources.folder) as own:
        out = Path(own) / "out"
        arguments = [contender.way, str(source), str(out), "--cores", str(contender.cores)]
        wall_s = run_child(["benchmarks.ingest_process", *arguments], Path(own))
        if contender.way != "loop":
            _check_store(out, n_records)
    return wall_s


def _check_store(store: Path, n_records: int) -> None:
    found = read_manifest(store).counts.n_records
    if found != n_records:
        raise RuntimeError(f"{n_records} records should be in the store, but there are {found}")


# ---------------------------------------------------------------------- memory


def measure_memory(sources: Sources, n_records: int, repeats: int) -> tuple[Figure, Figure]:
    """Return the peak memory of ingesting a tenth of the records, and all of them."""
    sizes = (n_records // 10, n_records)
    peaks = [[_peak_mib(sources, size) for size in sizes] for _ in range(repeats)]
    few, many = (
        Figure(f"peak memory, {size:,} records", "MiB", tuple(row[column] for row in peaks), "PSS and object store")
        for column, size in enumerate(sizes)
    )
    return few, many


def _peak_mib(sources: Sources, n_records: int) -> float:
    source = sources.of(n_records)
    with tempfile.TemporaryDirectory(dir=sources.folder) as own:
        out, looks = Path(own) / "out", Path(own) / "memory.jsonl"
        arguments = ["ray", str(source), str(out), "--cores", "2", "--memory", str(looks)]
        run_child(["benchmarks.ingest_process", *arguments], Path(own))
        _check_store(out, n_records)
        peak = max(look.processes_bytes + look.objects_bytes for look in read_samples(looks))
    print(f"peak memory at {n_records:,} records: {peak / 2**20:,.0f} MiB", file=sys.stderr)
    return peak / 2**20


# ---------------------------------------------------------------------- records


class Sources:
    """Folders in PTB-XL's layout, which share the files of their records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._n_written = 0

    def of(self, n_records: int) -> Path:
        """Return a source with the first `n_records` records."""
        records = self.folder / "records100"
        for number in range(self._n_written, n_records):
            write_record(records / _name(number))
        self._n_written = max(self._n_written, n_records)
        source = self.folder / f"first-{n_records}"
        if not source.exists():
            source.mkdir()
            (source / "records100").symlink_to(records)
            (source / "scp_statements.csv").write_text(STATEMENTS, encoding="utf-8")
            rows = [_row(number) for number in range(n_records)]
            (source / "ptbxl_database.csv").write_text("\n".join([COLUMNS, *rows, ""]), encoding="utf-8")
        return source


def write_record(path: Path) -> None:
    """Write a WFDB record of noise in format 16, with a header as PTB-XL's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(path.name.removesuffix("_lr"))
    raw_TL = np.random.default_rng(seed).integers(-2000, 2000, (N_TIMESTEPS, len(LEADS_12)), np.int16)
    lines = [f"{path.name} {len(LEADS_12)} 100 {N_TIMESTEPS}"]
    lines += [f"{path.name}.dat 16 1000.0(0)/mV 16 0 {raw_TL[0, lead]} 0 0 {n}" for lead, n in enumerate(LEADS_12)]
    path.with_name(f"{path.name}.hea").write_text("\n".join([*lines, ""]), encoding="ascii")
    path.with_name(f"{path.name}.dat").write_bytes(raw_TL.astype("<i2").tobytes())


def _name(number: int) -> str:
    return f"{number // FOLDER_RECORDS * FOLDER_RECORDS:05d}/{number:05d}_lr"


def _row(number: int) -> str:
    codes = ("NORM", "IMI", "LVH", "PVC")[number % 4]
    patient = number // 2
    statements = f"\"{{'{codes}': 100.0, 'SR': 0.0}}\""
    name = f"records100/{_name(number)}"
    return f"{number},{patient},{20 + number % 60},{number % 2},{statements},{patient % 10 + 1},{name},{name}"


def _ratio(name: str, above: Sequence[float], below: Sequence[float]) -> Figure:
    return Figure(name, "", tuple(a / b for a, b in zip(above, below, strict=True)))


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingest", description=__doc__)
    add_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="slopes of each contender (default: 3)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where records and stores are written: 9 GB")
    parser.add_argument("--memory-repeats", type=int, default=1, help="looks at the peak memory (default: 1)")
    parser.add_argument("--memory-records", type=int, default=100_000, help=argparse.SUPPRESS)  # and a tenth of them
    parser.add_argument("--records", type=int, help=argparse.SUPPRESS)  # smoke test: at most so many
    options = parser.parse_args(arguments)
    for name, least in (("repeats", 1), ("memory_repeats", 1), ("memory_records", 100)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, but got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
