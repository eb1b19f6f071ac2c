"""What inspection finds in a store: lengths, doubtful records, reasons, duplicates; and its picture's millimetres."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.dataset import LabelSet, Task
from data.ecg_paper import DPI, PaperRecord, draw_records, layout
from data.ingest import ingest_serially
from data.inspection import FLAGS, flag_records, inspect_store, label_text, sample_records
from data.kinds.numpy_dir import NumpyDirConfig, build_reader
from data.leads import LEADS_12
from data.store import CorruptShard, read_manifest

FS_HZ = 100.0


def sine(amplitude_mv: float = 1.0, n_timesteps: int = 1000) -> np.ndarray:
    """Return ecg_LT: 2.3 Hz in each of 12 leads, and their phases."""
    time_T, phase_L1 = np.arange(n_timesteps) / FS_HZ, np.arange(12)[:, np.newaxis]
    return (amplitude_mv * np.sin(2 * np.pi * 2.3 * time_T + phase_L1)).astype(np.float32)


def flags_of(ecg_LT: np.ndarray, length: int = 1000) -> set[str]:
    flags = flag_records(ecg_LT[np.newaxis], np.array([length], np.int32), FS_HZ)
    return {flag for flag, mask_N in flags.items() if mask_N[0]}


def test_a_clean_record_has_no_flag() -> None:
    assert flags_of(sine()) == set()


def test_each_flag_is_raised_by_what_it_names() -> None:
    flat, clipped, spiky, held = sine(), sine(), sine(), sine()
    flat[4] = 0.3
    clipped[7] = np.clip(clipped[7], -2, 0.8)
    spiky[2, 500] = 11.0
    held[3, -2:] = 4.0
    assert flags_of(flat) == {"flat lead"}
    assert flags_of(clipped) == {"clipped"}
    assert flags_of(spiky) == {"too large"}
    assert flags_of(held) == {"clipped"}  # 20 ms at 100 Hz
    assert flags_of(sine(0.01)) == {"too small"}
    assert {flag for record in (flat, clipped, spiky, sine(0.01)) for flag in flags_of(record)} == set(FLAGS) - {
        "padded"
    }


def test_padding_is_flagged_and_not_taken_for_signal() -> None:
    padded = sine() + np.float32(3)
    padded[:, 600:] = 0
    assert flags_of(padded, length=600) == {"padded"}


def test_a_single_extreme_value_or_a_quiet_stretch_is_not_clipping() -> None:
    peaked, quiet = sine(), np.round(sine(0.04), 2)
    peaked[0, 300] = 3.0
    quiet[:, 500] = 0.4
    assert flags_of(peaked) == set()
    assert flags_of(quiet) == set()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """20 arrays: one of 4 s, one flat in a lead, two equal, one too small, three that can't be taken in."""
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    rng = np.random.default_rng(0)
    for record in range(20):
        ecg_LT = sine() + rng.normal(0, 0.01, (12, 1000)).astype(np.float32)
        if record == 2:
            ecg_LT = ecg_LT[:, :400]
        if record == 3:
            ecg_LT[5] = 0
        if record in (4, 5):
            ecg_LT = sine(2)
        if record == 6:
            ecg_LT *= 0.001
        if record in (7, 8):
            ecg_LT[0, : record * 2] = np.nan
        if record == 9:
            ecg_LT = ecg_LT.T
        np.save(arrays / f"{record:02d}.npy", ecg_LT)
    config = NumpyDirConfig(source=str(arrays), fs_hz=FS_HZ)
    ingest_serially(build_reader(config), tmp_path / "store", shard_format="parquet", n_records_per_shard=6)
    return tmp_path / "store"


def test_a_store_is_counted_as_it_was_made(store: Path) -> None:
    found = inspect_store(store)
    assert found.lengths == {400: 1, 1000: 16}
    assert {flag: each.n_records for flag, each in found.flagged.items()} == {
        "flat lead": 1, "clipped": 0, "too large": 0, "too small": 1, "padded": 1
    }  # fmt: skip
    assert found.flagged["flat lead"].examples == ("03",)
    assert list(found.reasons.values()) == [2, 1]
    assert next(iter(found.reasons)).startswith("14 values are not finite")  # 16 of another one: the same reason
    assert (found.duplicates.n_records, found.duplicates.n_groups) == (2, 1)
    assert found.duplicates.n_across_folds in (0, 1)


def test_a_damaged_shard_is_found(store: Path) -> None:
    path = store / read_manifest(store).shards[1].file
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptShard, match="is corrupt: its sha256 is"):
        inspect_store(store)


def test_samples_are_spread_over_the_store_without_their_padding(store: Path) -> None:
    samples = sample_records(store, 4)
    assert [each.title.split()[0] for each in samples] == ["00", "05", "14", "19"]
    assert all("unlabelled" in each.title for each in samples)
    everything = sample_records(store, 1000)
    assert len(everything) == 17
    assert sorted(each.ecg_LT.shape[1] for each in everything) == [400] + 16 * [1000]


@pytest.mark.parametrize(
    ("task", "names", "labels", "text"),
    [
        ("multilabel", ("AF", "窦性心律", "PVC"), (1, 1, 0), "AF, label 2"),
        ("multilabel", ("AF", "PVC"), (0, 0), "no x"),
        ("binary", ("AF",), (0,), "not AF"),
        ("multiclass", ("AF", "N"), (1,), "N"),
        ("multiclass", ("AF", "N"), (np.nan,), "unknown"),
        ("regression", ("QT", "RR"), (381.2, np.nan), "QT 381, RR nan"),
    ],
)
def test_labels_are_said_in_words(task: Task, names: tuple[str, ...], labels: tuple[float, ...], text: str) -> None:
    assert label_text(np.array(labels, np.float32), LabelSet("x", task, names)) == text


def test_twelve_leads_are_three_rows_of_four_over_a_rhythm_strip() -> None:
    record = PaperRecord(sine()[::-1], LEADS_12[::-1], FS_HZ, "1")
    traces = layout(record)
    assert [trace.lead for trace in traces] == [*LEADS_12, "II"]
    assert [(trace.row, trace.start_s, trace.stop_s) for trace in traces[3:5]] == [(0, 2.5, 5.0), (1, 2.5, 5.0)]
    assert traces[-1][1:] == (3, 0, 10)


def test_other_leads_come_one_below_the_other() -> None:
    traces = layout(PaperRecord(sine()[:2], ("MLII", "V5"), FS_HZ, "1"))
    assert [tuple(trace) for trace in traces] == [("MLII", 0, 0, 10), ("V5", 1, 0, 10)]


def ink_of(png: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the picture's ink, row by column, and its size."""
    from matplotlib.image import imread

    picture = imread(png)[..., :3]
    return picture.max(axis=2) < 0.35, picture.shape[:2]


def test_the_picture_has_25_mm_a_second_and_10_mm_a_millivolt(tmp_path: Path) -> None:
    ecg_LT = np.zeros((1, 1000), np.float32)
    ecg_LT[0, 400] = 1.0
    ecg_LT[0, 900] = 1.0
    draw_records([PaperRecord(ecg_LT, ("X",), FS_HZ, "")], tmp_path / "x.png")
    ink, (_, width) = ink_of(tmp_path / "x.png")
    mm = DPI / 25.4
    assert width == pytest.approx((15 + 250 + 5) * mm, abs=2)
    trace = ink[:, int(30 * mm) :]
    zero = int(np.argmax(trace.sum(axis=1)))
    top = int(np.flatnonzero(trace.any(axis=1) & (np.arange(len(trace)) < zero))[0])
    assert (zero - top) / mm == pytest.approx(10, abs=0.5)
    peaks = np.flatnonzero(ink[zero - int(6 * mm)])
    peaks = peaks[peaks > 30 * mm] / mm
    assert peaks.min() == pytest.approx(15 + 100, abs=0.7)
    assert peaks.max() == pytest.approx(15 + 225, abs=0.7)


def test_a_label_in_chinese_and_a_dollar_sign_can_be_drawn(tmp_path: Path) -> None:
    draw_records([PaperRecord(sine(), LEADS_12, FS_HZ, "1   窦性心律 $x_")] * 2, tmp_path / "x.png")
    assert os.path.getsize(tmp_path / "x.png") > 10_000
