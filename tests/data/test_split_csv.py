"""A published split: what its files say of the records that are there."""

from pathlib import Path

import pytest

from data.split_csv import read_split


def written(folder: Path, *contents: str) -> list[str]:
    paths = [folder / name for name in ("train.csv", "val.csv", "test.csv")]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return [str(path) for path in paths]


def test_records_are_named_by_id_or_by_path_in_the_first_column(tmp_path: Path) -> None:
    files = written(tmp_path, "path,age\na/b/E1.mat,3\n\nE2,4\n", "\ufefffilename\nE3.hea.npy\n", "id,AF\n E4 ,1\n")
    split = read_split(files, ["E1", "E2", "E3", "E4"])
    assert split.folds == {"E1": 1, "E2": 1, "E3": 2, "E4": 3}
    assert split.notes == ()


def test_what_only_one_side_has_is_left_out_and_counted(tmp_path: Path) -> None:
    files = written(tmp_path, "path\nE1\nE9\n", "path\nE2\n", "path\nE3\n")
    split = read_split(files, ["E1", "E2", "E3", "E5", "E6"])
    assert split.folds == {"E1": 1, "E2": 2, "E3": 3}
    assert split.notes == (
        "2 records are left out, as the split does not name them",
        "1 records of the split are not there",
    )


def test_a_record_in_two_files_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, "path\nE1\n", "path\nE2\n", "path\nE1\n")
    with pytest.raises(ValueError, match=r"record E1 is in .*train\.csv and in .*test\.csv"):
        read_split(files, ["E1", "E2"])


def test_a_file_of_other_data_or_none_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, "path\nE1\n", "path\nA1\n", "path\nE3\n")
    with pytest.raises(ValueError, match=r"val\.csv: none of its 1 rows names a record that is there"):
        read_split(files, ["E1", "E3"])
    with pytest.raises(ValueError, match=r"none\.csv can't be read"):
        read_split([*files[:2], str(tmp_path / "none.csv")], ["E1", "A1"])
