"""Whatever bytes a reader is given, it gives records or the documented error: one line, no crash, no hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.ingest import ingest_serially
from data.kinds import hefei, iesd, mimic_iv_ecg, segments_csv
from data.record_reader import UNREADABLE
from data.recording import FileFormat, read_recordings
from data.split_csv import read_split
from data.store import read_manifest
from data.synthetic import SyntheticConfig, SyntheticReader
from data.wfdb_record import read_wfdb

FORM = FileFormat(("I", "II"), None, 100.0)
fuzzed = settings(
    max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
CELLS = st.one_of(
    st.sampled_from(["", "0", "-1", "1e999", "nan", "1.5", "I", "II", '"', "\x00", "\x1b[2J", "=1+1", "I" * 300]),
    st.integers(-(10**20), 10**20).map(str),
    st.text(max_size=5),
)
TABLES = st.lists(st.lists(CELLS, max_size=5), max_size=6).flatmap(
    lambda rows: st.sampled_from([",", ";", "\t", " "]).map(lambda mark: "\n".join(mark.join(row) for row in rows))
)
BYTES = st.one_of(TABLES.map(lambda text: text.encode("utf-8", "surrogatepass")), st.binary(max_size=300))


def takes_or_refuses(read: Callable[[], Any], errors: tuple[type[Exception], ...] = (ValueError,)) -> None:
    """Read; an error must be one of those that are documented, and say something."""
    text = "taken"
    try:
        read()
    except errors as error:
        text = str(error)
    assert text.strip()


NUMBERS = st.one_of(
    st.integers(-5, 40), st.integers(-(10**18), 10**18), st.sampled_from(["", "x", "1/0", "nan", "1e9"])
)


@st.composite
def wfdb_headers(draw: st.DrawFn) -> str:
    """Draw a header that is nearly one."""
    n_leads = draw(st.integers(0, 3))
    counts = [draw(st.one_of(st.just(n_leads), NUMBERS)), draw(NUMBERS), draw(NUMBERS)]
    lines = [f"r {' '.join(map(str, counts))}"]
    for lead in range(n_leads):
        file = draw(st.sampled_from(["r.dat", "../r.dat", "/etc/passwd", "~", "r.mat", "", "s3://x/r.dat"]))
        fmt = draw(st.sampled_from(["16", "16+24", "212", "80", "311", "0", "516", "x", "16x2", "16:3", "24", "32"]))
        gain = draw(st.sampled_from(["1000/mV", "0", "nan/mV", "1e-300", "1000(0)/uV", "-5/V", "x/mV", "200/mmHg"]))
        rest = " ".join(str(draw(NUMBERS)) for _ in range(draw(st.integers(0, 5))))
        lines.append(f"{file} {fmt} {gain} {rest} {draw(st.sampled_from(['I', 'II', '', 'lead ' + str(lead)]))}")
    return "\n".join(lines)


@fuzzed
@example(header="r 0 -1 1", signal=b"")
@example(header="r/10 16 /mV\rr 10r 11 ,0 r/", signal=b"")
@given(header=st.one_of(wfdb_headers(), st.text(max_size=200)), signal=st.binary(max_size=200))
def test_wfdb_headers(tmp_path: Path, header: str, signal: bytes) -> None:
    (tmp_path / "r.hea").write_text(header, encoding="utf-8", errors="replace")
    (tmp_path / "r.dat").write_bytes(signal)
    takes_or_refuses(lambda: read_wfdb(str(tmp_path / "r")))


def test_a_header_that_names_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.zeros(400, "<i2").tofile(tmp_path / "secret.dat")
    (tmp_path / "in" / "r.hea").write_text("r 1 100 100\n../secret.dat 212 200/mV 12 0 0 0 0 I\n", encoding="ascii")
    with pytest.raises(ValueError, match="can't be read as a WFDB record"):
        read_wfdb(str(tmp_path / "in" / "r"))


def test_a_header_that_promises_more_than_its_file_has_costs_no_memory(tmp_path: Path) -> None:
    for fmt in ("16", "212"):
        (tmp_path / "r.hea").write_text(f"r 1 100 {10**15}\nr.dat {fmt} 200/mV 12 0 0 0 0 I\n", encoding="ascii")
        (tmp_path / "r.dat").write_bytes(bytes(600))
        with pytest.raises(ValueError, match="can't be read as a WFDB record"):
            read_wfdb(str(tmp_path / "r"))


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ("r 110131013 4 17\nr.dat 16 200/mV 12 0 0 0 0 I\n", r"names 110,131,013 leads or segments in 1 lines"),
        ("r/999999999 1 100 8\nr_a 8\n", r"names 999,999,999 leads or segments in 1 lines"),
        ("r/1 12 100 999999999\n~ 999999999\n", r"12 x 999,999,999 samples in segments, at most 134,217,728 are read"),
    ],
)
def test_a_header_that_promises_more_than_it_has_lines_for_costs_no_memory(
    tmp_path: Path, header: str, rule: str
) -> None:
    (tmp_path / "r.hea").write_text(header, encoding="ascii")
    (tmp_path / "r.dat").write_bytes(bytes(600))
    with pytest.raises(ValueError, match=rule):
        read_wfdb(str(tmp_path / "r"))


@fuzzed
@given(content=BYTES, suffix=st.sampled_from([".csv", ".npy", ".h5", ".parquet"]))
def test_recordings(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"r{suffix}"
    path.write_bytes(content)
    takes_or_refuses(lambda: list(read_recordings(path, FORM)))


@fuzzed
@given(shape=st.text("0123456789,-()e", max_size=12), kind=st.sampled_from(["<f4", "<i2", "|O", "<U3", "<M8[s]", "x"]))
def test_headers_of_numpy_arrays(tmp_path: Path, shape: str, kind: str) -> None:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    (tmp_path / "r.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    takes_or_refuses(lambda: list(read_recordings(tmp_path / "r.npy", FORM)))


@fuzzed
@given(content=BYTES)
def test_rows_of_segments(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "segments.csv"
    path.write_bytes(content)

    def read() -> None:
        layout = segments_csv.scan(path, "segments.csv")
        segments_csv.parse_signal(content, layout.n_timesteps, 1, "segments.csv")

    takes_or_refuses(read)


@fuzzed
@given(content=BYTES)
def test_texts_and_splits(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    takes_or_refuses(lambda: hefei.read_text(str(path), 4.88), UNREADABLE)
    takes_or_refuses(lambda: hefei.read_labels(path))
    takes_or_refuses(lambda: iesd.read_text(iesd.Place(str(path), "")), UNREADABLE)
    takes_or_refuses(lambda: read_split([str(path)], ["a"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LINE = {"ecg_path": "a/b", "subject_id": "1", "report": "x"}


@fuzzed
@given(
    lines=st.lists(
        st.one_of(
            JSON.map(json.dumps),
            st.dictionaries(st.sampled_from([*LINE, "labels", "age", "sex"]), JSON, max_size=5).map(json.dumps),
            st.text(max_size=20),
            st.just("[" * 5000),
        ),
        max_size=4,
    )
)
def test_json_lines(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8", errors="replace")
    config = mimic_iv_ecg.MimicIvEcgConfig.model_construct(source=str(path))
    takes_or_refuses(lambda: mimic_iv_ecg.read_columns(config))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    store = tmp_path_factory.mktemp("stores") / "store"
    ingest_serially(SyntheticReader(SyntheticConfig(task="af_segments", n_records=50, fs_hz=50, duration_s=4)), store)
    fields: dict[str, Any] = json.loads((store / "dataset.json").read_text(encoding="utf-8"))
    return fields


@fuzzed
@given(data=st.data())
def test_manifests(tmp_path: Path, manifest: dict[str, Any], data: st.DataObject) -> None:
    changed = {**manifest, data.draw(st.sampled_from(sorted(manifest))): data.draw(JSON)}
    (tmp_path / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
    takes_or_refuses(lambda: read_manifest(tmp_path))


@fuzzed
@given(content=st.one_of(st.binary(max_size=200), st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000])))
def test_files_that_are_no_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    takes_or_refuses(lambda: read_manifest(tmp_path))


@pytest.mark.parametrize("file", ["../other.h5", "/etc/passwd", "a/b.h5"])
def test_a_manifest_that_names_shards_elsewhere_is_refused(tmp_path: Path, manifest: dict[str, Any], file: str) -> None:
    changed = {**manifest, "shards": [{**manifest["shards"][0], "file": file}]}
    (tmp_path / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="file"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("key", ["lead_names", "notes"])
def test_a_manifest_with_what_a_terminal_obeys_is_refused(tmp_path: Path, manifest: dict[str, Any], key: str) -> None:
    changed = {**manifest, key: ["\x1b]0;owned\x07"]}
    (tmp_path / "dataset.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match="control character") as error:
        read_manifest(tmp_path)
    assert "\x1b" not in str(error.value)
