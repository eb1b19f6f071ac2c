"""A folder of arrays: with labels, without any, transposed, and with leads of its own."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.config import DataConfig
from data.ingest import ingest_serially
from data.kinds.numpy_dir import NumpyDirConfig, build_reader
from data.leads import LEADS_12
from data.loading import describe
from data.record_reader import RecordReader
from data.store import read_manifest
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(NumpyDirConfig.model_validate({"source": str(source), "fs_hz": 100, **options}))


def array_of(record: int, n_leads: int = 12) -> np.ndarray:
    return np.random.default_rng(record).normal(size=(n_leads, 1000 if record % 2 else 400)).astype(np.float32)


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """24 arrays in two folders, of 4 s and of 10 s by turns."""
    for record in range(24):
        path = tmp_path / "arrays" / ("a", "b")[record % 2] / f"{record:02d}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array_of(record))
    return tmp_path / "arrays"


def write_labels(folder: Path, **columns: object) -> str:
    """Write a table of all arrays: two patients' records are alternately AF; `columns` are added or replaced."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))
    rows = np.arange(len(names))
    table = {"file": names, "patient_id": [f"p{row // 2}" for row in rows], "AF": rows % 4 // 2, "NORM": rows % 4 < 2}
    pd.DataFrame({**table, **columns}).astype({"NORM": int}).to_csv(folder / "labels.csv", index=False)
    return str(folder / "labels.csv")


def test_unlabelled_arrays_become_a_store_without_a_label_set(arrays: Path, tmp_path: Path) -> None:
    source = reader(arrays)
    block = read_whole(source)
    assert block.ecg_NLT.shape == (24, 12, 1000)
    assert block.record_ids[:2].tolist() == ["a/00", "a/02"]
    assert block.length_N[[0, 12]].tolist() == [400, 1000]
    np.testing.assert_array_equal(block.ecg_NLT[0, :, :400], array_of(0))
    assert not block.ecg_NLT[0, :, 400:].any()
    ingest_serially(source, tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert (manifest.label_sets, manifest.counts.n_records, manifest.counts.n_patients) == ({}, 24, None)
    assert set(manifest.counts.records) == set(range(1, 11))
    with pytest.raises(ValueError, match="has no labels, so nothing can be learned from it; ingest it with --labels"):
        describe(DataConfig(store=str(tmp_path / "store")))


def test_patients_of_a_labelled_folder_are_in_one_fold_each(arrays: Path) -> None:
    source = reader(arrays, labels=write_labels(arrays))
    block = read_whole(source)
    assert source.header.patients_known
    assert source.header.label_sets["label"].names == ("AF", "NORM")
    assert source.header.label_sets["label"].task == "multilabel"
    assert block.labels["label"].sum(axis=0).tolist() == [12, 12]
    pairs = set(zip(block.patient_ids.tolist(), block.folds.tolist(), strict=True))
    assert len(pairs) == 12


def test_age_sex_and_other_names_of_files_are_understood(arrays: Path) -> None:
    names = sorted(path.relative_to(arrays).as_posix().removesuffix(".npy") for path in arrays.rglob("*.npy"))
    table = write_labels(arrays, file=names, Age=[None, *range(1, 24)], sex=["M", "female", "", 1, "0"] + ["F"] * 19)
    block = read_whole(reader(arrays, labels=table))
    np.testing.assert_array_equal(block.meta["age"][:3], [np.nan, 1, 2])
    np.testing.assert_array_equal(block.meta["sex"][:6], [0, 1, np.nan, 1, 0, 1])


def test_a_single_label_is_binary(arrays: Path) -> None:
    table = pd.read_csv(write_labels(arrays)).drop(columns="NORM")
    table.to_csv(arrays / "labels.csv", index=False)
    header = reader(arrays, labels=str(arrays / "labels.csv")).header
    assert (header.label_sets["label"].task, header.label_sets["label"].names) == ("binary", ("AF",))


def test_a_transposed_array_is_quarantined_with_the_remedy(arrays: Path) -> None:
    np.save(arrays / "a" / "02.npy", array_of(2).T)
    ((record_id, reason),) = read_whole(reader(arrays)).quarantined
    assert record_id == "a/02"
    assert "it is transposed: its shape (400, 12) is timesteps x leads" in reason
    assert "np.save(path, np.load(path).T)" in reason


def test_a_folder_of_transposed_arrays_is_refused_before_any_is_read(arrays: Path) -> None:
    for path in arrays.rglob("*.npy"):
        np.save(path, np.load(path).T)
    with pytest.raises(ValueError, match=r"every array is transposed; of 00.npy: .*np.load\(path\).T"):
        reader(arrays)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((12, 400)), "no signal: every lead is constant"),
        (np.ones((8, 400)), r"12 leads are named, but the signal has the shape (8, 400)"),
        (np.zeros((12, 0)), "no signal: it has no timesteps"),
        (np.full((12, 400), np.nan), "4800 values are not finite"),
        (np.random.default_rng(0).normal(size=(12, 400)) * 1000, "wrong gain: the signal swings by"),
    ],
)
def test_an_array_that_is_no_ecg_is_quarantined(arrays: Path, array: np.ndarray, reason: str) -> None:
    np.save(arrays / "a" / "02.npy", array)
    ((record_id, found),) = read_whole(reader(arrays)).quarantined
    assert record_id == "a/02"
    assert found.startswith(reason)


def test_damaged_and_pickled_files_are_quarantined(arrays: Path) -> None:
    (arrays / "a" / "02.npy").write_bytes(b"\x93NUMPY")
    np.save(arrays / "a" / "04.npy", np.array([{"ecg": 1}], dtype=object), allow_pickle=True)
    found = read_whole(reader(arrays)).quarantined
    assert [each.record_id for each in found] == ["a/02", "a/04"]
    assert all(each.reason.startswith("can't be read as a .npy array") for each in found)


def test_leads_are_named_by_a_key(tmp_path: Path) -> None:
    for record in range(10):
        np.save(tmp_path / f"{record}.npy", array_of(record, 2))
    source = reader(tmp_path, leads="II, V5")
    assert source.header.lead_names == ("II", "V5")
    assert read_whole(source).ecg_NLT.shape == (10, 2, 1000)
    with pytest.raises(ValueError, match="every lead needs a name of its own, got II,ii"):
        reader(tmp_path, leads="II,ii")


def test_a_single_lead_may_come_without_a_second_dimension(tmp_path: Path) -> None:
    for record in range(10):
        np.save(tmp_path / f"{record}.npy", array_of(record, 1)[0])
    assert read_whole(reader(tmp_path, leads="II")).ecg_NLT.shape == (10, 1, 1000)


def test_rows_without_a_file_are_quarantined_and_files_without_a_row_counted(arrays: Path) -> None:
    labels = write_labels(arrays)
    (arrays / "a" / "02.npy").unlink()
    np.save(arrays / "c.npy", array_of(0))
    source = reader(arrays, labels=labels)
    assert read_whole(source).quarantined == (("a/02", "a/02.npy is not on disk"),)
    assert any("1 arrays are left out, as" in note for note in source.header.notes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"AF": 2}, r"a/00: label 'AF' must be 0 or 1, got '2'"),
        ({"AF": None}, r"a/00: label 'AF' must be 0 or 1, got ''"),
        ({"ward": "x"}, r"a/00: label 'ward' must be 0 or 1, got 'x'; other columns than patient_id, age, sex"),
        ({"sex": "x"}, r"a/00: sex must be male"),
        ({"age": "x"}, r"a/00: age must be a number"),
        ({"patient_id": ""}, r"row 2 has no patient_id"),
        ({"file": "a/00.npy"}, r"row 3: 'a/00' has a row before"),
        ({"file": [f"{row}.npy" for row in range(24)]}, r"none of its 24 records is in"),
        ({"patient_id": "p"}, "10 patient-disjoint folds need at least 10 patients"),
    ],
)
def test_a_malformed_table_is_refused(arrays: Path, columns: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reader(arrays, labels=write_labels(arrays, **columns))


def test_a_source_without_arrays_or_without_a_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no .npy arrays"):
        reader(tmp_path)
    with pytest.raises(ValueError, match="fs_hz"):
        NumpyDirConfig.model_validate({"source": "x"})
    assert NumpyDirConfig.model_validate({"source": "x", "fs_hz": 100}).leads == LEADS_12
