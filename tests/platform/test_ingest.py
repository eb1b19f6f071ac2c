"""The ingestion command: what it prints, and one line with exit code 2 for bad input; looking at a store; export."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import data
from data.ingest import ingest_serially
from data.kinds.numpy_dir import NumpyDirConfig, build_reader
from data.store import read_manifest
from platform.ingest import main, parse_arguments
from platform.store_text import summary_text

ROOT = Path(__file__).parents[2]


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    rows = [f"{row / 100},{-row / 100},0.5,{row % 4 == 0:d}" for row in range(80)]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "segments.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """20 records of 12 leads and 4 s, every fourth with AF; one more is transposed."""
    (tmp_path / "arrays").mkdir()
    rng = np.random.default_rng(0)
    for record in range(21):
        ecg_LT = rng.normal(size=(12, 400))
        np.save(tmp_path / "arrays" / f"{record}.npy", ecg_LT.T if record == 20 else ecg_LT)
    rows = [f"{record},{record % 4 == 0:d},{record % 4 != 0:d}\n" for record in range(21)]
    (tmp_path / "labels.csv").write_text("file,AF,SR\n" + "".join(rows))
    config = NumpyDirConfig(
        source=str(tmp_path / "arrays"), fs_hz=100, duration_s=4, labels=str(tmp_path / "labels.csv")
    )
    ingest_serially(build_reader(config), tmp_path / "store")
    return tmp_path / "store"


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
        (("hefei", "x", "--out", "s", "--download"), "hefei has no public download: Tianchi gives it to who registers"),
        (("numpy_dir", "x", "--out", "s"), "required: --fs-hz"),
        (("numpy_dir", "x", "--fs-hz", "100", "--leads", "I,,II", "--out", "s"), "--leads: every lead needs a name"),
        (("iesd", "nowhere", "--test", "2024", "--out", "s"), "nowhere: a folder or a .zip of text files is needed"),
        (("--inspect", "nowhere"), "nowhere is no store, as it has no dataset.json"),
        (("--inspect",), "argument --inspect: expected one argument"),
        (("--inspect=x", "--n-records", "0"), "argument --n-records: at least 1 is needed, got 0"),
        (("--inspect", "x", "--out", "s"), "unrecognized arguments: --out s"),
        (("--export", "nowhere", "--labels", "rhythm", "--out", "x.hdf5"), "nowhere is no store"),
        (("--export", "x", "--out", "x.hdf5"), "required: --labels"),
    ],
)
def test_bad_arguments_are_one_line(arguments: tuple[str, ...], message: str, refused: Callable[..., str]) -> None:
    assert message in refused(*arguments)


def test_inspection_prints_what_a_store_holds_and_draws_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inspect", str(store), "--n-records", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(summary_text(read_manifest(store), store))
    for text in (
        "AF      25.0%",
        "lengths: 4 s: 20\n",
        "0    0.0%  a lead stays at its extreme",
        "values that are not finite: records with some are left out",
        "left out: 1 records\n         1  it is transposed: its shape (400, 12)",
        "duplicates: none",
        f"picture: {store / 'inspect.png'}",
    ):
        assert text in printed
    assert (store / "inspect.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_goes_where_it_is_told(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inspect", str(store), "--png", str(tmp_path / "x.png"), "--n-records", "1"]) == 0
    assert f"picture: {tmp_path / 'x.png'}" in capsys.readouterr().out
    assert (tmp_path / "x.png").is_file()
    assert not (store / "inspect.png").exists()


def test_a_store_is_exported_as_one_hdf5_file(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.hdf5"
    command = ["--export", str(store), "--labels", "label", "--out", str(out), "--n-timesteps", "512"]
    assert main(command) == 0
    assert "20 records of 512 timesteps\nlabels: AF, SR" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["record_set"].shape == (20, 12, 1, 512)
        np.testing.assert_array_equal(file["label_set"][:].sum(axis=0), [5, 15])


def test_a_path_that_looks_like_a_number_stays_a_path() -> None:
    assert parse_arguments(["iesd", "2023", "--test", "2024", "--out", "s"]).test == "2024"


def test_download_fetches_into_the_source_first(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr("data.download.download", lambda kind, folder, progress: calls.append((kind, folder)))
    assert "ptbxl_database.csv can't be read" in refused("ptbxl", "x", "--out", str(tmp_path / "s"), "--download")
    assert calls == [("ptbxl", Path("x"))]


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
