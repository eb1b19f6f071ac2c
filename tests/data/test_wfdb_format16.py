"""Format 16: the same numbers as wfdb reads, bit for bit, and nothing that it would read otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.wfdb_format16 import read_format16

NAMES = ("I", "II", "V1 of chest")


def assert_as_wfdb(path: Path) -> None:
    ours, theirs = read_format16(str(path)), wfdb.rdrecord(str(path))
    assert ours is not None
    np.testing.assert_array_equal(ours.ecg_LT, theirs.p_signal.T)
    assert (ours.units, ours.lead_names, ours.fs_hz) == (tuple(theirs.units), tuple(theirs.sig_name), theirs.fs)


def write_record(folder: Path, record_line: str, signal_lines: list[str], raw_TL: np.ndarray, offset: int = 0) -> Path:
    (folder / "r.hea").write_text("\n".join([record_line, *signal_lines, "# Dx: 426783006", ""]))
    (folder / "r.mat").write_bytes(b"\0" * offset + raw_TL.astype("<i2").tobytes())
    return folder / "r"


@pytest.mark.parametrize(
    ("pattern", "n_least"),
    [("ptbxl/records*/*/*.hea", 540), ("challenge2021/smoke_data/*/*.hea", 61)],
)
def test_real_records_equal_wfdbs_bit_for_bit(recordings: Path, pattern: str, n_least: int) -> None:
    paths = sorted(recordings.glob(pattern))
    assert len(paths) >= n_least
    for path in paths[:: max(1, len(paths) // 60)]:
        assert_as_wfdb(path.with_suffix(""))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gain=st.sampled_from(["", " 1000", " 1000.0(0)/mV", " 4880/mV", " 0/uV", " 200(-5)", " 1e3(7)/mV"]),
    rest=st.sampled_from(["16 0 1 2 0 {}", "16 12 1 2 0 {}"]),
    offset=st.sampled_from([0, 24]),
    frame=st.sampled_from(["", "x1"]),
    spacing=st.sampled_from(["r 3 500 4", "r 3 250.5 4 12:00:00", "  r 3 360/360 4"]),
    seed=st.integers(0, 99),
)
def test_every_style_of_header_is_read_as_wfdb_reads_it(
    tmp_path: Path, gain: str, rest: str, offset: int, frame: str, spacing: str, seed: int
) -> None:
    raw_TL = np.random.default_rng(seed).integers(-(2**15), 2**15, (4, 3))
    raw_TL[1, 2] = -(2**15)  # a missing sample
    plus = f"+{offset}" if offset else ""
    fields = " " + rest if gain else ""
    lines = [f"r.mat 16{frame}{plus}{gain}{fields.format(name)}" for name in NAMES]
    path = write_record(tmp_path, spacing, lines, raw_TL, offset)
    if gain:
        assert_as_wfdb(path)
    else:
        assert read_format16(str(path)) is None  # leads without names


@pytest.mark.parametrize(
    ("record_line", "signal_line"),
    [
        ("r 2 500 4", "r.mat 212 1000/mV 16 0 0 0 0 I"),
        ("r 2 500 4", "r.mat 16x2 1000/mV 16 0 0 0 0 I"),
        ("r 2 500 4", "r.mat 16:1 1000/mV 16 0 0 0 0 I"),
        ("r/2 2 500 4", "r.mat 16 1000/mV 16 0 0 0 0 I"),
        ("r 2 500", "r.mat 16 1000/mV 16 0 0 0 0 I"),
        ("r 3 500 4", "r.mat 16 1000/mV 16 0 0 0 0 I"),
        ("r 2 500 40", "r.mat 16 1000/mV 16 0 0 0 0 I"),
        ("r 2 500 4", "r.mat"),
        ("?", "r.mat 16 1000/mV 16 0 0 0 0 I"),
    ],
)
def test_what_is_not_plain_or_is_damaged_is_left_to_wfdb(tmp_path: Path, record_line: str, signal_line: str) -> None:
    path = write_record(tmp_path, record_line, [signal_line, signal_line], np.zeros((4, 2)))
    assert read_format16(str(path)) is None


def test_leads_in_two_files_are_left_to_wfdb(tmp_path: Path) -> None:
    lines = ["r.mat 16 1000/mV 16 0 0 0 0 I", "s.mat 16 1000/mV 16 0 0 0 0 II"]
    assert read_format16(str(write_record(tmp_path, "r 2 500 4", lines, np.zeros((4, 2))))) is None
