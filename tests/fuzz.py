"""Coverage-guided fuzzing of what reads files from elsewhere: `python -m tests.fuzz TARGET --seconds 600`.

It needs atheris (`pip install -e '.[fuzz]'`), and is no part of the suite. A reader may refuse a file with its
documented error and nothing else; any other exception, more than 10 s or more than 2 GiB ends the run, and the input
that did it is written to the folder for temporary files. The last lines say how many inputs were tried.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["data", "platform", "yaml", "ruamel", "wfdb"]):
    from data.ingest import ingest_serially
    from data.kinds import hefei, iesd, mimic_iv_ecg, segments_csv
    from data.record_reader import UNREADABLE
    from data.recording import FileFormat, read_recordings
    from data.split_csv import read_split
    from data.store import read_manifest
    from data.synthetic import SyntheticConfig, SyntheticReader
    from data.wfdb_record import read_wfdb
    from platform.chains.stages import is_chain, parse_chain
    from platform.specs.error import SpecError
    from platform.specs.spec import parse_spec

ROOT = Path(__file__).parents[1]
FORM = FileFormat(("I", "II"), None, 100.0)
HEADER_END = b"\x00\x00"  # in an input of the target `wfdb`: what follows is the signal's file
HANG_S, MOST_MIB = 10, 2048

Read = Callable[[Path, bytes], object]


@dataclass(frozen=True)
class Target:
    """A reader, the errors that it may refuse a file with, and files to begin with."""

    read: Read
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]


def read_spec(folder: Path, content: bytes) -> None:
    path = folder / "spec.yaml"
    path.write_bytes(content)
    (parse_chain if is_chain(path) else parse_spec)(path)


def read_header(folder: Path, content: bytes) -> None:
    header, _, signal = content.partition(HEADER_END)
    (folder / "r.hea").write_bytes(header)
    (folder / "r.dat").write_bytes(signal)
    read_wfdb(str(folder / "r"))


def read_csv(folder: Path, content: bytes) -> None:
    path = folder / "segments.csv"
    path.write_bytes(content)
    layout = segments_csv.scan(path, path.name)
    segments_csv.parse_signal(content, layout.n_timesteps, 1, path.name)


def read_text(folder: Path, content: bytes) -> None:
    path = folder / "t.txt"
    path.write_bytes(content)
    for read in (
        lambda: hefei.read_text(str(path), 4.88),
        lambda: hefei.read_labels(path),
        lambda: iesd.read_text(iesd.Place(str(path), "")),
        lambda: read_split([str(path)], ["a"]),
    ):
        try:
            read()
        except UNREADABLE:  # the next reader has its turn
            continue


def read_lines(folder: Path, content: bytes) -> None:
    path = folder / "lines.jsonl"
    path.write_bytes(content)
    mimic_iv_ecg.read_columns(mimic_iv_ecg.MimicIvEcgConfig.model_construct(source=str(path)))


def read_store(folder: Path, content: bytes) -> None:
    (folder / "dataset.json").write_bytes(content)
    read_manifest(folder)


def read_recording(folder: Path, content: bytes) -> None:
    path = folder / ("r.npy" if content.startswith(b"\x93NUMPY") else "r.csv")
    path.write_bytes(content)
    list(read_recordings(path, FORM))


def manifest_seed() -> bytes:
    """Return the manifest of a store that is whole."""
    with tempfile.TemporaryDirectory() as name:
        synthetic = SyntheticConfig(task="af_segments", n_records=50, fs_hz=50, duration_s=4)
        ingest_serially(SyntheticReader(synthetic), Path(name) / "store")
        return (Path(name) / "store" / "dataset.json").read_bytes()


def spec_seeds() -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted((ROOT / "searchspaces").glob("*.yaml")))


TARGETS = {
    "spec": Target(read_spec, (SpecError,), spec_seeds()),
    "wfdb": Target(read_header, (ValueError,), (b"r 1 100 4\nr.dat 16 200/mV 12 0 0 0 0 I\n\x00\x00abcdefgh",)),
    "csv": Target(read_csv, (ValueError,), (b"a,b,label\n0.1,0.2,1\n0.3,0.4,0\n",)),
    "text": Target(read_text, (ValueError,), (b"I II\n1 2\n3 4\n", b"id,fold\na,1\n")),
    "lines": Target(read_lines, (ValueError,), (b'{"ecg_path":"a/b","subject_id":"1","report":"x"}\n',)),
    "manifest": Target(read_store, (ValueError,), (manifest_seed(),)),
    "recording": Target(
        read_recording,
        (ValueError,),
        (b"I,II\n1,2\n3,4\n", b"\x93NUMPY\x01\x00\x3e\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    options = parser.parse_args()
    target = TARGETS[options.target]
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder, corpus = Path(name) / "files", Path(name) / "corpus"
        folder.mkdir()
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)

        def try_input(content: bytes) -> None:
            try:
                target.read(folder, content)
            except target.errors as error:
                if not str(error).strip():
                    raise AssertionError("an error says something") from error

        artefacts = f"-artifact_prefix={tempfile.gettempdir()}/"
        limits = [artefacts, f"-max_total_time={options.seconds}", f"-timeout={HANG_S}", f"-rss_limit_mb={MOST_MIB}"]
        atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(corpus)], try_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
