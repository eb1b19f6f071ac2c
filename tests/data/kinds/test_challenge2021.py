"""Challenge 2020/2021: headers of all styles, label sets by source set, folds, and records that are refused."""

import math
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import wfdb

from data.kinds.challenge2021 import SOURCE_SETS, Challenge2021Config, build_reader, parse_comments, source_set
from data.record_reader import RecordReader
from tests.data.wfdb_files import random_values, write_record
from tests.data.whole import read_whole

SPLIT = "challenge2021/split_csvs/stratified_smoke"


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(Challenge2021Config.model_validate({"source": str(source), **options}))


@pytest.fixture(scope="module")
def smoke(recordings: Path) -> Path:
    return recordings / "challenge2021/smoke_data"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Twelve records of Chapman-Shaoxing, odd ones in the style of v1.0.2, even ones in that of v1.0.3."""
    for number in range(1, 13):
        codes = "164889003,59118001" if number % 3 else "426177001"
        path = tmp_path / f"g{number % 2}" / f"JS{number:05d}"
        if number % 2:
            comments = [f"#Age: {20 + number}", "#Sex: Female", f"#Dx: {codes}", "#Rx: Unknown"]
            write_record(path, random_values(number), comments)
        else:
            comments = [f"# Age: {20 + number}", "# Sex: Male", f"# Dx: {codes}", "# Rx: Unknown"]
            write_record(path, random_values(number), comments, fmt="16x1+24", gain="1000.0(0)/mV")
    return tmp_path


def test_both_styles_of_header_are_read_alike(written: Path) -> None:
    block = read_whole(reader(written, duration_s=2))
    assert block.record_ids.tolist() == [f"JS{number:05d}" for number in range(1, 13)]
    for number in range(1, 13):
        np.testing.assert_allclose(block.ecg_NLT[number - 1], random_values(number) / 1000, rtol=1e-6)
    np.testing.assert_array_equal(block.meta["age"], np.arange(21, 33))
    np.testing.assert_array_equal(block.meta["sex"], np.tile([1, 0], 6))
    names = reader(written).header.label_sets["scored"].names
    assert block.labels["scored"][:, names.index("AF")].tolist() == [1, 1, 0] * 4


@pytest.mark.parametrize(
    ("text", "codes", "age", "sex"),
    [
        ("#Age: 49\n#Sex: Female\n#Dx: 426783006\n", {"426783006"}, 49, 1),
        ("# Age: 85\r\n# Sex: Male\r\n# Dx: 164889003,59118001\r\n", {"164889003", "59118001"}, 85, 0),
        ("#Age: NaN\n#Sex: Unknown\n#Dx: Unknown\n#Rx: 123\n", set(), math.nan, math.nan),
        ("#Dx:164889003, 59118001\n#Age: -1\n#Sex: F\n", {"164889003", "59118001"}, math.nan, 1),
        ("#Dx:\n#Age: 3\n", set(), 3, math.nan),
    ],
)
def test_comments_are_parsed_in_all_styles(text: str, codes: set[str], age: float, sex: float) -> None:
    comments = parse_comments(text)
    assert comments.codes == codes
    np.testing.assert_array_equal((comments.age, comments.sex), (age, sex))


@pytest.mark.parametrize(
    ("record_id", "expected"),
    [
        ("A0001", "cpsc"),
        ("Q0001", "cpsc_extra"),
        ("I0001", "stpetersburg"),
        ("S0001", "ptb"),
        ("HR00001", "ptbxl"),
        ("E00001", "g12ec"),
        ("JS10646", "chapman"),
        ("JS10647", "ningbo"),
        ("X1", None),
    ],
)
def test_a_records_name_tells_its_source_set(record_id: str, expected: str | None) -> None:
    assert source_set(record_id) == expected


def test_the_real_records_go_in_with_the_labels_of_their_headers(smoke: Path) -> None:
    source = reader(smoke)
    block = read_whole(source)
    assert (len(block.record_ids), block.quarantined) == (61, ())
    names = source.header.label_sets["scored"].names
    counts = dict(zip(names, block.labels["scored"].sum(axis=0).astype(int).tolist(), strict=True))
    codes = Counter(code for path in smoke.rglob("*.hea") for code in dx_of(path))
    assert (counts["NSR"], counts["AF"], counts["SB"]) == (
        codes["426783006"],
        codes["164889003"],
        codes["426177001"],
    )
    assert counts["PVC|VPB"] == codes["427172004"] + codes["17338001"] == 2
    assert len(source.header.label_sets["all"].names) == len(codes) == 35
    assert block.labels["all"].sum() == sum(codes.values())
    assert "rhythm" not in source.header.label_sets
    sets = Counter(SOURCE_SETS[int(index)] for index in block.meta["source_set"])
    assert sets == {"cpsc": 10, "cpsc_extra": 10, "ptb": 1, "ptbxl": 10, "g12ec": 10, "chapman": 10, "ningbo": 10}


def dx_of(path: Path) -> list[str]:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("#Dx"))
    return line.split(":")[1].strip().split(",")


def test_signals_are_the_first_ten_seconds_in_millivolts_whatever_the_length_and_rate(smoke: Path) -> None:
    block = read_whole(reader(smoke))
    row = {name: index for index, name in enumerate(block.record_ids.tolist())}
    assert block.ecg_NLT.shape == (61, 12, 5000)
    raw_TL = wfdb.rdrecord(str(smoke / "PTB_PTBXL/HR00004"), physical=False).d_signal
    np.testing.assert_allclose(block.ecg_NLT[row["HR00004"]], raw_TL.T / 1000, rtol=1e-6)
    one_khz_TL = wfdb.rdrecord(str(smoke / "PTB_PTBXL/S0001")).p_signal
    halved_LT = block.ecg_NLT[row["S0001"]]
    assert halved_LT.shape[1] == block.length_N[row["S0001"]] == 5000
    # 1,000 Hz to 500 Hz: every second value, but for what lies above 250 Hz.
    assert np.abs(halved_LT - one_khz_TL[:10_000:2].T).max() < 0.1


@pytest.mark.parametrize(("name", "n_labels"), [("chapman", 16), ("ptbxl", 19), ("ningbo", 23), ("g12ec", 18)])
def test_a_source_set_alone_has_adagrad_fusions_labels_however_few_its_records(
    smoke: Path, name: str, n_labels: int
) -> None:
    source = reader(smoke, datasets=name)
    assert len(source.header.label_sets["adagrad_fusion"].names) == n_labels
    assert len(source.header.label_sets["scored"].names) == 26
    assert ("rhythm" in source.header.label_sets) == (name in {"chapman", "ningbo"})
    assert set(read_whole(source).meta["source_set"]) == {SOURCE_SETS.index(name)}


def test_source_sets_are_chosen_by_name(smoke: Path) -> None:
    source = reader(smoke, datasets="g12ec, ptbxl", count_above=1000)
    assert len(read_whole(source).record_ids) == 20
    assert "records by source set: ptbxl 10, g12ec 10" in source.header.notes[0]
    assert "LBBB" not in source.header.label_sets["adagrad_fusion"].names  # 536 + 231
    assert source.header.options["datasets"] == ["g12ec", "ptbxl"]
    with pytest.raises(ValueError, match=r"no record of stpetersburg; it has: .*ningbo 10"):
        reader(smoke, datasets=["g12ec", "stpetersburg"])


def test_each_record_is_in_one_of_ten_folds_that_depend_on_the_seed(smoke: Path) -> None:
    first, again, other = (read_whole(reader(smoke, seed=seed)) for seed in (18, 18, 19))
    assert set(first.folds.tolist()) == set(range(1, 11))
    assert len(set(first.record_ids)) == len(first.record_ids)
    np.testing.assert_array_equal(first.folds, again.folds)
    assert (first.folds != other.folds).any()
    assert not reader(smoke).header.patients_known
    assert reader(smoke, n_folds=5).header.folds["test"] == (5,)


def test_a_published_split_takes_the_place_of_the_folds(smoke: Path, recordings: Path) -> None:
    files = [recordings / SPLIT / name for name in ("train_split_1_1.csv", "val_split_1_1.csv", "test_split_1.csv")]
    source = reader(smoke, split=",".join(map(str, files)))
    block = read_whole(source)
    assert source.header.folds == {"train": (1,), "val": (2,), "test": (3,)}
    rows = {Path(line.split(",")[0]).stem: fold for fold, file in enumerate(files, start=1) for line in lines(file)}
    assert dict(zip(block.record_ids.tolist(), block.folds.tolist(), strict=True)) == {
        path.stem: rows[path.stem] for path in smoke.rglob("*.hea") if path.stem in rows
    }
    assert Counter(block.folds.tolist()) == {1: 26, 2: 7, 3: 9}
    assert source.header.notes[2:] == (
        "19 records are left out, as the split does not name them",
        "11 records of the split are not there",
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def test_a_record_that_cant_be_taken_in_is_quarantined(written: Path) -> None:
    header = written / "g1/JS00001.hea"
    header.write_text(header.read_text().replace("#Dx", "#Diagnosis"))
    header = written / "g1/JS00003.hea"
    header.write_text(header.read_text().replace("#Dx: 426177001", "#Dx: AFIB"))
    (written / "g0/JS00002.mat").unlink()
    block = read_whole(reader(written, n_folds=5))
    reasons = {each.record_id: each.reason for each in block.quarantined}
    assert reasons["JS00001"] == "its header has no Dx line, so its diagnoses are unknown"
    assert reasons["JS00003"] == "its Dx line has 'AFIB', which is no SNOMED CT code"
    assert "can't be read as a WFDB record" in reasons["JS00002"]
    assert len(block.record_ids) == 9


def test_labels_of_no_known_source_set_leave_adagrad_fusion_out(written: Path) -> None:
    write_record(written / "X1", random_values(99), ["#Dx: 164889003"])
    header = reader(written).header
    assert set(header.label_sets) == {"scored", "all"}
    assert "1 records are of no known source set; adagrad_fusion, which counts by set, is left out" in header.notes


def test_a_label_set_without_a_positive_is_left_out_with_a_note(tmp_path: Path) -> None:
    for number in range(10):
        write_record(tmp_path / f"JS0000{number}", random_values(number), ["#Dx: 55827005"])
    header = reader(tmp_path).header
    assert set(header.label_sets) == {"all"}
    assert "label set rhythm is left out, as none of its labels occurs" in header.notes


def test_a_malformed_source_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"13 folds need at least as many records, but there are 12 .*--n-folds"):
        reader(written, n_folds=13)
    shutil.copyfile(written / "g1/JS00001.hea", written / "g0/JS00001.hea")
    with pytest.raises(ValueError, match=r"record JS00001 is there twice, as .*g0/JS00001.hea and .*g1/JS00001.hea"):
        reader(written)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no \.hea file"):
        reader(tmp_path / "empty")
    write_record(tmp_path / "bad/A0001", random_values(0))
    with pytest.raises(ValueError, match="no record has a good header; the first: its header has no Dx line"):
        reader(tmp_path / "bad")
