"""MIT-BIH: beats by AAMI class around their annotations, and the split of de Chazal et al. between patients."""

import gzip
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import wfdb

from data.kinds.mitdb import DS1, DS2, PACED, MitdbConfig, build_reader
from data.reader import RecordBlock
from data.record_reader import RecordReader
from tests.data.whole import read_whole

SYMBOLS = "N+LR~ejAaJSVEF/fQN"  # all beats, and two annotations that are none
AAMI = {"N": 6, "S": 4, "V": 2, "F": 1, "Q": 3}  # of them


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(MitdbConfig.model_validate({"source": str(source), **options}))


def recording_of(block: RecordBlock) -> pd.Series:
    return pd.Series(block.record_ids).str.partition("-")[0]


def write_recording(folder: Path, name: str, leads: list[str]) -> None:
    n_annotations = len(SYMBOLS)
    samples = 360 * np.arange(1, n_annotations + 1)
    signal_TL = np.random.default_rng(int(name)).normal(0, 0.4, (360 * (n_annotations + 1), 2))
    wfdb.wrsamp(
        name, fs=360, units=["mV"] * 2, sig_name=leads, p_signal=signal_TL, fmt=["16"] * 2,
        comments=["-1 F 1 2 x1" if name == "234" else "51 F 1 2 x1"], write_dir=str(folder),
    )  # fmt: skip
    wfdb.wrann(name, "atr", samples, symbol=list(SYMBOLS), write_dir=str(folder))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 48 recordings by name, of 19 s; as published, 102 and 104 have no MLII, and 114 has it in second place."""
    folder = tmp_path_factory.mktemp("mitdb")
    leads = {"102": ["V5", "V2"], "104": ["V5", "V2"], "114": ["V5", "MLII"]}
    for name in sorted(DS1 | DS2 | PACED):
        write_recording(folder, name, leads.get(name, ["MLII", "V1"]))
    return folder


@pytest.fixture(scope="module")
def mitdb(recordings: Path) -> Path:
    return recordings / "mitdb"


def test_symbols_fall_into_the_aami_classes(whole: Path) -> None:
    source = reader(whole)
    block = read_whole(source)
    counts = Counter(source.header.label_sets["aami"].names[int(each)] for each in block.labels["aami"][:, 0])
    n_recordings = 43
    assert counts == {name: n * n_recordings for name, n in AAMI.items()}
    np.testing.assert_array_equal(np.isnan(block.labels["aami4"]), block.labels["aami"] == 4)
    np.testing.assert_array_equal(block.labels["abnormal"], block.labels["aami"] > 0)


def test_ds2_is_the_test_fold_and_ds1_trains_and_validates_without_a_patient_in_both(whole: Path) -> None:
    block = read_whole(reader(whole))
    recordings = recording_of(block)
    assert set(recordings[block.folds == 10]) == DS2
    assert set(recordings[block.folds < 10]) == DS1 - {"201"}
    assert set(block.folds.tolist()) == set(range(1, 11))
    by_patient = pd.DataFrame({"patient": block.patient_ids, "fold": block.folds}).groupby("patient").fold.nunique()
    assert (by_patient == 1).all()


@pytest.mark.parametrize(("choice", "n_recordings"), [("train", 23 - 1), ("test", 21 + 1)])
def test_201_and_202_are_one_patient_who_can_train_or_test(whole: Path, choice: str, n_recordings: int) -> None:
    block = read_whole(reader(whole, same_person=choice))
    recordings = recording_of(block)
    both = recordings.isin(["201", "202"])
    assert set(block.patient_ids[both]) == {"201"}
    [fold] = set(block.folds[both].tolist())
    assert (fold == 10) == (choice == "test")
    assert recordings.nunique() == 44
    assert block.patient_ids[block.folds < 10].tolist().count("201") == (0 if choice == "test" else both.sum())
    assert len(set(block.patient_ids[block.folds < 10])) == (22 if choice == "train" else 21)


def test_paced_recordings_are_left_out_and_said_so_or_trained_on(whole: Path) -> None:
    source = reader(whole)
    assert not set(recording_of(read_whole(source))) & PACED
    assert "recordings 102, 104, 107, 217 are left out" in source.header.notes[0]
    block = read_whole(reader(whole, keep_paced=True))
    assert set(block.folds[recording_of(block).isin(PACED)].tolist()) <= set(range(1, 10))
    assert [(each.record_id, each.reason) for each in block.quarantined] == [
        (name, "the whole recording: lead MLII is missing: it has V5, V2") for name in ("102", "104")
    ]


def test_lead_mlii_is_found_by_name_and_the_other_one_can_come_with_it(whole: Path) -> None:
    source = reader(whole, leads="both")
    assert source.header.lead_names == ("MLII", "other")
    block = read_whole(source)
    signal_TL = wfdb.rdrecord(str(whole / "114")).p_signal
    row = int(np.flatnonzero(block.record_ids == "114-000360")[0])
    np.testing.assert_allclose(block.ecg_NLT[row, 0], signal_TL[180:540, 1], rtol=1e-5)
    np.testing.assert_allclose(block.ecg_NLT[row, 1], signal_TL[180:540, 0], rtol=1e-5)


def test_age_and_sex_come_from_the_header_and_distances_from_the_neighbouring_beats(whole: Path) -> None:
    block = read_whole(reader(whole))
    of_100 = np.flatnonzero(recording_of(block) == "100")
    assert set(block.meta["age"][of_100].tolist()) == {51} and set(block.meta["sex"][of_100].tolist()) == {1}
    assert np.isnan(block.meta["age"][recording_of(block) == "234"]).all()
    np.testing.assert_equal(block.meta["rr_before_s"][of_100][:4].tolist(), [np.nan, 2, 1, 2])  # + and ~ are no beats
    np.testing.assert_equal(block.meta["rr_after_s"][of_100][-2:].tolist(), [1, np.nan])


def test_the_samples_beats_are_counted_as_in_the_databases_directory(mitdb: Path) -> None:
    """PhysioNet: 100 has N 2239, A 33, V 1; 200 N 1743, A 30, V 826, F 2; 208 N 1586, S 2, V 992, F 373, Q 2."""
    labels_NK = np.concatenate([chunk.index.labels["aami"] for chunk in reader(mitdb).chunks()])
    n_normal = 2239 + 1743 + 1586
    assert np.bincount(labels_NK[:, 0].astype(int)).tolist() == [n_normal, 33 + 30 + 2, 1 + 826 + 992, 2 + 373, 2]


def test_windows_equal_those_of_an_independent_cut(mitdb: Path, recordings: Path) -> None:
    """`segments/` holds 600 timesteps around beats of DS1, and whose they are, made by other code."""
    names = pd.read_csv(recordings / "segments/df_segment_mitdb_ds1_record.csv", dtype=str).record.tolist()
    with gzip.open(recordings / "segments/df_segment_mitdb_ds1.csv.gz", "rt") as file:
        rows = [line.split(",") for line, name in zip(file, names, strict=True) if name == "208"]
    expected = {(tuple(np.round(np.array(row[:600], float) * 200).astype(int)), float(row[600])) for row in rows}
    block = read_whole(reader(mitdb, duration_s=600 / 360))
    steps = np.round(block.ecg_NLT[:, 0] * 200).astype(int)  # 200 steps of the converter are 1 mV
    ours = set(zip(map(tuple, steps.tolist()), block.labels["abnormal"][:, 0].tolist(), strict=True))
    assert len(expected) == 949 and expected <= ours


def test_the_beat_is_where_the_window_says(mitdb: Path) -> None:
    block = read_whole(reader(mitdb, duration_s=1, before_s=0.25))
    signal_T = wfdb.rdrecord(str(mitdb / "100")).p_signal[:, 0]
    time = int(block.record_ids[50].partition("-")[2])
    np.testing.assert_allclose(block.ecg_NLT[50, 0], signal_T[time - 90 : time + 270], rtol=1e-5)
    with pytest.raises(ValueError, match="`before_s < duration_s` must hold, but got 1 and 1"):
        reader(mitdb, duration_s=1, before_s=1)


def test_a_window_that_reaches_beyond_its_recording_is_quarantined(mitdb: Path) -> None:
    block = read_whole(reader(mitdb))
    assert block.quarantined[0] == (
        "100-000077",
        "its window is of timesteps -103 to 257, but the recording has 0 to 650000",
    )
    assert len(block.quarantined) == 5


def test_a_recording_without_annotations_or_with_a_cut_signal_is_quarantined(whole: Path, tmp_path: Path) -> None:
    for name in ("100", "200", "208"):
        for suffix in (".hea", ".dat", ".atr"):
            shutil.copyfile(whole / f"{name}{suffix}", tmp_path / f"{name}{suffix}")
    (tmp_path / "100.atr").unlink()
    path = tmp_path / "200.dat"
    path.write_bytes(path.read_bytes()[:10_000])
    block = read_whole(reader(tmp_path))
    assert set(recording_of(block)) == {"208"}
    assert block.quarantined[0].record_id == "100"
    assert block.quarantined[0].reason.startswith("the whole recording: FileNotFoundError")
    of_200 = [each for each in block.quarantined if each.record_id.startswith("200-")]
    assert len(of_200) == 16 and of_200[0].reason.startswith("can't be read as a WFDB record")


def test_what_is_missing_of_the_split_is_said(mitdb: Path) -> None:
    notes = reader(mitdb).header.notes
    assert notes[0].startswith("41 of the 44 recordings of DS1 and DS2 are not on disk")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no recordings \(\*.hea\)"):
        reader(tmp_path)
    write_recording(tmp_path, "300", ["MLII", "V1"])
    with pytest.raises(ValueError, match="300 is no recording of the MIT-BIH Arrhythmia Database"):
        reader(tmp_path)
