"""Hefei: steps become mV, four leads are derived, labels are those of the list. The files are written here."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data.kinds.hefei import LEADS_8, HefeiConfig, build_reader
from data.leads import LEADS_12
from data.record_reader import RecordReader
from tests.data.whole import read_whole

NAMES = ("窦性心律", "QRS低电压", "心房颤动", "融合波")


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(HefeiConfig.model_validate({"source": str(source), **options}))


def steps_of(record: int) -> np.ndarray:
    """Return steps_TL of the 8 leads."""
    return np.random.default_rng(record).integers(-400, 400, (5000, 8))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 records of round 2 as published: `NAMES[2]` of every third, `NAMES[0]` of the others, `NAMES[1]` of one."""
    folder = tmp_path_factory.mktemp("written") / "hefei"
    (folder / "hf_round2_train").mkdir(parents=True)
    rows = []
    for record in range(12):
        path = folder / "hf_round2_train" / f"{100000 + record}.txt"
        np.savetxt(path, steps_of(record), fmt="%d", header=" ".join(LEADS_8), comments="")
        age, sex = ("", "") if record == 1 else (str(40 + record), ("MALE", "FEMALE")[record % 2])
        labels = [NAMES[2] if record % 3 == 0 else NAMES[0], *(NAMES[1:2] if record == 5 else ())]
        rows.append("\t".join([path.name, age, sex, *labels]) + "\t")
    (folder / "hf_round2_train.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "hf_round2_arrythmia.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def hefei(written: Path, tmp_path: Path) -> Path:
    """The same files in a folder that a test may damage."""
    return Path(shutil.copytree(written, tmp_path / "hefei"))


def edit_labels(folder: Path, old: str, new: str) -> None:
    path = folder / "hf_round2_train.txt"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_steps_of_4_88_microvolts_become_mv_in_the_twelve_leads(hefei: Path) -> None:
    block = read_whole(reader(hefei))
    assert block.ecg_NLT.shape == (12, 12, 5000)
    mv_LT = steps_of(3).T * 4.88 / 1000
    lead = dict(zip(LEADS_12, block.ecg_NLT[3], strict=True))
    for name, expected_T in zip(LEADS_8, mv_LT, strict=True):
        np.testing.assert_allclose(lead[name], expected_T, rtol=1e-6)
    one_T, two_T = mv_LT[:2]
    np.testing.assert_allclose(lead["III"], two_T - one_T, atol=1e-6)
    np.testing.assert_allclose(lead["aVR"], -(one_T + two_T) / 2, atol=1e-6)
    np.testing.assert_allclose(lead["aVL"], one_T - two_T / 2, atol=1e-6)
    np.testing.assert_allclose(lead["aVF"], two_T - one_T / 2, atol=1e-6)


def test_the_gain_is_a_key(hefei: Path) -> None:
    half, whole = (read_whole(reader(hefei, gain_uv=gain)).ecg_NLT for gain in (2.44, 4.88))
    np.testing.assert_allclose(2 * half, whole, rtol=1e-6)


def test_labels_age_and_sex_are_those_of_the_table(hefei: Path) -> None:
    source = reader(hefei)
    block = read_whole(source)
    assert source.header.label_sets["arrhythmia"].names == NAMES[:3]
    assert "1 of 4 arrhythmias of the list are left out, as none of them occurs" in source.header.notes
    labels_NK = block.labels["arrhythmia"]
    assert labels_NK.sum(axis=0).tolist() == [8, 1, 4]
    assert labels_NK[5].tolist() == [1, 1, 0]
    assert block.meta["age"][[0, 11]].tolist() == [40, 51]
    assert block.meta["sex"][[0, 11]].tolist() == [0, 1]
    assert np.isnan([block.meta["age"][1], block.meta["sex"][1]]).all()


def test_every_record_is_in_one_of_ten_folds_and_patients_are_said_to_be_unknown(hefei: Path) -> None:
    source = reader(hefei)
    block = read_whole(source)
    assert set(block.folds.tolist()) == set(range(1, 11))
    assert len(set(block.record_ids.tolist())) == 12
    assert not source.header.patients_known
    assert any("patients are unknown" in note for note in source.header.notes)


def test_damaged_and_missing_records_are_quarantined(hefei: Path) -> None:
    folder = hefei / "hf_round2_train"
    lines = (folder / "100002.txt").read_text().splitlines()
    (folder / "100002.txt").write_text("\n".join(lines[:4000]))
    (folder / "100003.txt").write_text("\n".join(lines[1:]))
    (folder / "100004.txt").write_text("\n".join([*lines[:3], "1 2 x 4 5 6 7 8", *lines[4:]]))
    (folder / "100005.txt").unlink()
    block = read_whole(reader(hefei))
    assert len(block.record_ids) == 8
    reasons = dict(block.quarantined)
    assert reasons["100002"].startswith("it has 3,999 rows of 8 numbers; 5,000 rows of 8 are needed")
    assert reasons["100003"].startswith("its first line must name the leads I II V1")
    assert reasons["100004"].startswith("it is no table of numbers")
    assert reasons["100005"] == "100005.txt is not on disk"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (NAMES[2], "心房扑动", r"100000.txt: '心房扑动' is not in .*hf_round2_arrythmia.txt"),
        ("100001.txt", "100000.txt", "row 2: 100000.txt is named twice"),
        ("100001.txt\t\t", "100001\t\t", "row 2 must be file.txt, age, sex and labels between tabs"),
        ("40\tMALE", "old\tMALE", "100000: age must be a number of years or empty, got 'old'"),
        ("40\tMALE", "40\tM4LE", "100000: sex must be male, female, M, F, 0, 1 or empty, got 'M4LE'"),
    ],
)
def test_a_malformed_table_is_refused(hefei: Path, old: str, new: str, message: str) -> None:
    edit_labels(hefei, old, new)
    with pytest.raises(ValueError, match=message):
        reader(hefei)


def test_a_file_that_is_there_twice_is_refused(hefei: Path) -> None:
    (hefei / "copy").mkdir()
    (hefei / "copy" / "100000.txt").write_text("")
    with pytest.raises(ValueError, match=r"has two files 100000.txt: .*; take one out"):
        reader(hefei)


def test_other_label_files_are_named(hefei: Path) -> None:
    (hefei / "hf_round2_train.txt").rename(hefei / "mine.txt")
    with pytest.raises(ValueError, match=r"has neither hf_round1_label.txt nor hf_round2_train.txt; .* --labels"):
        reader(hefei)
    with pytest.raises(ValueError, match=r"mine.txt is not the label file of a round; .* --arrhythmias"):
        reader(hefei, labels=str(hefei / "mine.txt"))
    names = str(hefei / "hf_round2_arrythmia.txt")
    assert len(read_whole(reader(hefei, labels=str(hefei / "mine.txt"), arrhythmias=names)).record_ids) == 12


def test_a_folder_without_the_records_is_refused(hefei: Path) -> None:
    for path in (hefei / "hf_round2_train").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"has none of the 12 records of .*hf_round2_train.txt"):
        reader(hefei)
