"""HuBERT-ECG's tables: labels by name, parts as folds, and what a single label column means."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.kinds.hubert_csv import HubertCsvConfig, build_reader
from data.record_reader import RecordReader
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(HubertCsvConfig.model_validate({"source": str(source), **options}))


def array_of(record: int) -> np.ndarray:
    return np.random.default_rng(record).uniform(-1, 1, (12, 600)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for record in range(40):
        np.save(tmp_path / f"r{record:02d}.npy", array_of(record))
    return tmp_path


def write_csv(folder: Path, name: str, records: range, **columns: object) -> Path:
    """Write a table as published: filename, age, sex, then 0/1 labels; None takes a column out."""
    row_N = np.array(records)
    table: dict[str, object] = {
        "filename": [f"r{record:02d}.npy" for record in records],
        "age": row_N + 30,
        "sex": np.where(row_N % 2, "Female", "Male"),
        "AF": (row_N % 4 == 0).astype(int),
        "SR": (row_N % 4 != 0).astype(int),
    }
    kept = {key: value for key, value in {**table, **columns}.items() if value is not None}
    pd.DataFrame(kept).to_csv(folder / name, index=False)
    return folder / name


def test_one_table_gives_ten_stratified_folds(folder: Path) -> None:
    source = reader(write_csv(folder, "all.csv", range(40)))
    block = read_whole(source)
    assert block.ecg_NLT.shape == (40, 12, 5000)
    assert set(block.length_N.tolist()) == {600}
    np.testing.assert_array_equal(block.ecg_NLT[7, :, :600], array_of(7))
    assert block.record_ids[:2].tolist() == ["r00", "r01"]
    assert source.header.label_sets["label"].task == "multilabel"
    assert block.labels["label"].sum(axis=0).tolist() == [10, 30]
    assert [block.labels["label"][block.folds == fold, 0].sum() for fold in range(1, 11)] == [1] * 10
    assert (block.meta["age"][0], block.meta["sex"][:2].tolist()) == (30, [0, 1])
    assert not source.header.patients_known


def test_three_tables_give_folds_1_to_8_9_and_10_with_labels_by_name(folder: Path) -> None:
    train = write_csv(folder, "train.csv", range(24))
    val = write_csv(folder, "val.csv", range(24, 32))
    test = write_csv(folder, "test.csv", range(32, 40))
    table = pd.read_csv(test)
    table[["filename", "age", "sex", "SR", "AF"]].to_csv(test, index=False)
    source = reader(train, val=str(val), test=str(test))
    block = read_whole(source)
    assert set(block.folds[:24].tolist()) == set(range(1, 9))
    assert set(block.folds[24:32].tolist()) == {9}
    assert set(block.folds[32:].tolist()) == {10}
    assert source.header.label_sets["label"].names == ("AF", "SR")
    np.testing.assert_array_equal(block.labels["label"][:, 0], np.arange(40) % 4 == 0)


def test_a_part_that_is_missing_is_taken_from_the_training_part(folder: Path) -> None:
    train, other = write_csv(folder, "train.csv", range(32)), write_csv(folder, "other.csv", range(32, 40))
    with_test = reader(train, test=str(other))
    folds_N = read_whole(with_test).folds
    assert (set(folds_N[:32].tolist()), set(folds_N[32:].tolist())) == (set(range(1, 10)), {10})
    with_val = reader(train, val=str(other))
    folds_N = read_whole(with_val).folds
    assert (set(folds_N[:32].tolist()), set(folds_N[32:].tolist())) == (set(range(1, 9)), {9})
    assert with_val.header.folds["test"] == ()


@pytest.mark.parametrize("column", ["patient_id", "Patient_ID"])
def test_patients_are_in_one_fold_each_where_they_are_known(folder: Path, column: str) -> None:
    table = pd.read_csv(write_csv(folder, "all.csv", range(40)))
    table.insert(3, column, np.arange(40) // 3)
    table.to_csv(folder / "all.csv", index=False)
    source = reader(folder / "all.csv", label_start_index=4)
    block = read_whole(source)
    assert source.header.patients_known
    pairs = set(zip(block.patient_ids.tolist(), block.folds.tolist(), strict=True))
    assert len(pairs) == len(set(block.patient_ids.tolist())) == 14


def test_a_patient_or_record_in_two_parts_is_refused(folder: Path) -> None:
    train, val = write_csv(folder, "train.csv", range(24)), write_csv(folder, "val.csv", range(23, 32))
    with pytest.raises(ValueError, match=r"share 1 records, the first is r23; .* leave --val out"):
        reader(train, val=str(val))
    for path, patients in ((train, np.arange(24)), (val, np.arange(22, 31))):
        table = pd.read_csv(path)
        table["filename"] = path.stem + table["filename"]
        table.insert(3, "patient_id", patients)
        table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="share 2 patients, the first is 22"):
        reader(train, val=str(val), label_start_index=4)


def test_the_folds_of_ptbxl_are_kept_where_all_ten_are_there(folder: Path) -> None:
    table = pd.read_csv(write_csv(folder, "all.csv", range(40)))
    table.insert(3, "strat_fold", np.arange(40) % 10 + 1)
    table.to_csv(folder / "all.csv", index=False)
    source = reader(folder / "all.csv", label_start_index=4)
    np.testing.assert_array_equal(read_whole(source).folds, np.arange(40) % 10 + 1)


@pytest.mark.parametrize(
    ("values", "options", "task", "names"),
    [
        (np.arange(40) % 2, {}, "multiclass", ("SR 0", "SR 1")),
        (np.arange(40) % 2, {"task": "binary"}, "binary", ("SR",)),
        (np.arange(40) % 3 * 5, {}, "multiclass", ("SR 0", "SR 5", "SR 10")),
        (np.arange(40) / 2, {}, "regression", ("SR",)),
        (np.arange(40), {"task": "regression"}, "regression", ("SR",)),
    ],
)
def test_a_single_column_is_a_class_or_a_quantity(
    folder: Path, values: np.ndarray, options: dict[str, object], task: str, names: tuple[str, ...]
) -> None:
    source = reader(write_csv(folder, "all.csv", range(40), AF=None, SR=values), **options)
    label_set, labels_NK = source.header.label_sets["label"], read_whole(source).labels["label"]
    assert (label_set.task, label_set.names) == (task, names)
    assert labels_NK.shape == (40, 1)
    expected_N = np.searchsorted(np.unique(values), values) if task == "multiclass" else values
    np.testing.assert_array_equal(labels_NK[:, 0], expected_N)


def test_an_empty_cell_of_a_single_column_is_unknown(folder: Path) -> None:
    values = [None, 1.5, *range(38)]
    block = read_whole(reader(write_csv(folder, "all.csv", range(40), AF=None, SR=values)))
    np.testing.assert_array_equal(block.labels["label"][:3, 0], [np.nan, 1.5, 0])


def test_what_1_stands_for_in_sex_is_a_key(folder: Path) -> None:
    path = write_csv(folder, "all.csv", range(40), sex=np.arange(40) % 2)
    assert read_whole(reader(path)).meta["sex"][:2].tolist() == [0, 1]
    assert read_whole(reader(path, sex_one="male")).meta["sex"][:2].tolist() == [1, 0]


def test_file_names_are_relative_to_root_or_whole_paths(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    path = write_csv(tmp_path / "tables", "all.csv", range(40))
    with pytest.raises(ValueError, match=r"none of its arrays is on disk, the first is .*r00.npy; name .* --root"):
        reader(path)
    assert len(read_whole(reader(path, root=str(folder))).record_ids) == 40
    whole = write_csv(
        tmp_path / "tables", "all.csv", range(40), filename=[str(folder / f"r{i:02d}.npy") for i in range(40)]
    )
    assert len(read_whole(reader(whole)).record_ids) == 40


def test_a_missing_and_a_transposed_array_are_quarantined(folder: Path) -> None:
    (folder / "r03.npy").unlink()
    np.save(folder / "r04.npy", array_of(4).T)
    missing, transposed = read_whole(reader(write_csv(folder, "all.csv", range(40)))).quarantined
    assert missing.record_id == "r03" and missing.reason.endswith("r03.npy is not on disk")
    assert transposed.record_id == "r04" and "np.save(path, np.load(path).T)" in transposed.reason


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"label_start_index": 2}, r"column 'sex' can't be a label, as it describes the record; .* which is 2"),
        ({"ward": "x"}, {}, r"column 'ward' can't be a label, as it has the value 'x'"),
        ({}, {"label_start_index": 5}, r"has 5 columns, so no label begins at 5"),
        ({"AF": 2}, {}, r"label 'AF' must be 0 or 1, got 2; .*--label-start-index.*--task"),
        ({"AF": None, "SR": np.arange(40) * 3}, {}, r"40 whole numbers"),
        ({}, {"task": "multiclass"}, r"task multiclass has one label column, but there are 2"),
        ({"sex": "x"}, {}, r"r00.npy: sex must be male"),
    ],
)
def test_a_malformed_table_is_refused(
    folder: Path, columns: dict[str, object], options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.kinds.hubert_csv.MOST_CLASSES", 39)
    with pytest.raises(ValueError, match=message):
        reader(write_csv(folder, "all.csv", range(40), **columns), **options)


def test_a_table_without_filename_first_and_tables_of_other_labels_are_refused(folder: Path) -> None:
    train, val = write_csv(folder, "train.csv", range(30)), write_csv(folder, "val.csv", range(30, 40), AFL=0)
    with pytest.raises(ValueError, match="must have the same labels, but 'AFL' is in one only"):
        reader(train, val=str(val))
    pd.read_csv(train).rename(columns={"filename": "file"}).to_csv(train, index=False)
    with pytest.raises(ValueError, match="the first column must be 'filename', got 'file'"):
        reader(train)
    with pytest.raises(ValueError, match=r"nowhere.csv can't be read \(No such file"):
        reader(folder / "nowhere.csv")
