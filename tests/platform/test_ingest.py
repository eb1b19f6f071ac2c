"""The ingestion command: what it prints, and one line with exit code 2 for bad input."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import data
from data.store import read_manifest
from platform.ingest import main, parse_arguments, summary_text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    rows = [f"{row / 100},{-row / 100},0.5,{row % 4 == 0:d}" for row in range(80)]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "segments.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command, check that it ends with code 2, one line and nothing on disk, and return the line."""

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        try:
            code = main(arguments)
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        captured = capfd.readouterr()
        assert code == 2
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("shard_format", ["hdf5", "parquet"])
def test_a_csv_becomes_a_store_and_its_counts_are_printed(
    segments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shard_format: str
) -> None:
    out = tmp_path / "stores" / "s"
    assert main(["segments_csv", str(segments), "--fs-hz", "360", "--out", str(out), "--format", shard_format]) == 0
    manifest = read_manifest(out)
    assert (manifest.counts.n_records, manifest.fs_hz, manifest.format) == (80, 360, shard_format)
    printed = capsys.readouterr()
    assert "80 records, patients unknown" in printed.out
    assert "1 leads x 3 timesteps at 360 Hz" in printed.out
    assert f"fingerprint: {manifest.fingerprint}" in printed.out
    assert "note: folds are random by row" in printed.out
    assert "abnormal   25.0%   25.0%" in printed.out
    assert "100 %, 80 records" in printed.err
    assert summary_text(manifest, out) == printed.out.rstrip("\n")


@pytest.mark.usefixtures("ray_cluster")
def test_a_bad_cell_is_one_line_and_leaves_nothing(segments: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    segments.write_text(segments.read_text().replace("0.4,-0.4,", "0.4,oops,"))
    line = refused("segments_csv", str(segments), "--fs-hz", "360", "--out", str(tmp_path / "a" / "s"))
    assert (
        line
        == f"platform.ingest: {segments}: row 41, column 2: 'oops' is not a number; every signal value must be, in mV"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: KIND"),
        (("segment_csv", "x"), "invalid choice: 'segment_csv'"),
        (("segments_csv", "x.csv", "--out", "s"), "required: --fs-hz"),
        (("segments_csv", "x.csv", "--fs-hz", "360"), "required: --out"),
        (("segments_csv", "nowhere.csv", "--fs-hz", "360", "--out", "s"), "nowhere.csv can't be read"),
        (("segments_csv", "x.csv", "--fs-hz", "-1", "--out", "s"), "--fs-hz: Input should be greater than 0, got -1"),
        (("segments_csv", "x.csv", "--fs-hz", "fast", "--out", "s"), "--fs-hz: Input should be a valid number"),
        (("ptbxl", "nowhere", "--out", "s"), "ptbxl_database.csv can't be read"),
        (("ptbxl", "nowhere", "--fs-hz", "250", "--out", "s"), "--fs-hz: Input should be 100 or 500, got 250"),
        (("ptbxl", "x", "--records", "f", "--out", "s"), "--records is no option of ptbxl"),
        (("ptbxl", "x", "--skip-mising", "--out", "s"), "did you mean --skip-missing?"),
        (("synthetic", "rythm", "--out", "s"), "SOURCE: Input should be 'rhythm'"),
        (("synthetic", "rhythm", "--out", "s", "--format", "csv"), "invalid choice: 'csv'"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*arguments)


def test_a_folder_with_content_is_refused_before_anything_is_read(segments: Path, refused: Callable[..., str]) -> None:
    line = refused("segments_csv", "nowhere.csv", "--fs-hz", "360", "--out", str(segments.parent))
    assert "exists and is not empty; nothing is overwritten" in line


@pytest.mark.parametrize("kind", data.READERS)
def test_every_kind_has_help_for_its_options(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_arguments([kind, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name, field in [*data.READERS[kind].config_type().model_fields.items()][1:]:
        assert "--" + name.replace("_", "-") in text
        assert field.description


def test_a_killed_ingestion_leaves_no_store(tmp_path: Path) -> None:
    out = tmp_path / "s"
    command = [sys.executable, "-m", "platform.ingest", "synthetic", "rhythm", "--n-records", "3000", "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".s.*/shard-*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert not list(tmp_path.rglob("dataset.json"))
