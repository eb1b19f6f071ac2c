"""SPH: statements of the AHA by primary code, in full and as the Challenge's classes; folds by patient."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.kinds.sph import SphConfig, build_reader, statement_rules
from data.record_reader import RecordReader
from data.snomed import scored_rule
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(SphConfig.model_validate({"source": str(source), **options}))


@pytest.fixture(scope="module")
def sample(recordings: Path) -> Path:
    return recordings / "challenge2021/smoke_data/SPH"


CODES = ("1", "22;147+367", "50+346", "30+308;60", "106;82", "")
COLUMNS = "ECG_ID,AHA_Code,Patient_ID,Age,Sex,N,Date\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Thirty-six records of twelve patients in the layout as published."""
    (tmp_path / "records").mkdir()
    rows = []
    for number in range(36):
        name = f"A{number + 1:05d}"
        rows.append(f"{name},{CODES[number % 6]},S{number % 12:05d},{20 + number},{'MF'[number % 2]},5000,2020-03-04\n")
        values_LT = np.random.default_rng(number).normal(0, 0.3, (12, 5000))
        with h5py.File(tmp_path / "records" / f"{name}.h5", "w") as file:
            file["ecg"] = values_LT.astype(np.float16)
    (tmp_path / "metadata.csv").write_text(COLUMNS + "".join(rows))
    return tmp_path


def test_the_published_layout_is_read(written: Path) -> None:
    source = reader(written)
    block = read_whole(source)
    assert (block.ecg_NLT.shape, block.quarantined) == ((36, 12, 5000), ())
    expected_LT = np.random.default_rng(3).normal(0, 0.3, (12, 5000)).astype(np.float16)
    np.testing.assert_array_equal(block.ecg_NLT[3], expected_LT.astype(np.float32))
    assert block.record_ids[:2].tolist() == ["A00001", "A00002"]
    assert block.patient_ids[12] == "S00000"
    assert (block.meta["age"][0], block.meta["sex"][:2].tolist()) == (20, [0, 1])


def test_patients_are_in_one_fold_each(written: Path) -> None:
    block = read_whole(reader(written))
    assert set(block.folds.tolist()) == set(range(1, 11))
    for patient in set(block.patient_ids.tolist()):
        assert len(set(block.folds[block.patient_ids == patient].tolist())) == 1
    assert reader(written).header.patients_known
    assert (read_whole(reader(written, seed=19)).folds != block.folds).any()


def test_statements_are_labels_with_and_without_their_modifiers(written: Path) -> None:
    source = reader(written)
    sets, labels = source.header.label_sets, read_whole(source).labels
    assert sets["all"].names == ("1", "22", "30+308", "50+346", "60", "82", "106", "147+367")
    assert sets["primary"].names == (
        "Normal ECG",
        "Sinus bradycardia",
        "Atrial premature complexes",
        "Atrial fibrillation",
        "Ventricular premature complexes",
        "Prolonged PR interval",
        "Right bundle-branch block",
        "T-wave abnormality",
    )
    assert labels["all"].sum(axis=0).tolist() == [6] * 8
    np.testing.assert_array_equal(labels["all"], labels["primary"])
    assert labels["all"].sum(axis=1)[:6].tolist() == [1, 2, 1, 2, 2, 0]


def test_statements_are_the_challenges_classes(written: Path) -> None:
    source = reader(written)
    names, labels_NK = source.header.label_sets["scored"].names, read_whole(source).labels["scored"]
    assert names == scored_rule().names
    found = [{names[k] for k in np.flatnonzero(row)} for row in labels_NK[:6]]
    assert found == [{"NSR"}, {"SB", "TInv"}, {"AF"}, {"PAC|SVPB", "PVC|VPB"}, {"CRBBB|RBBB", "IAVB"}, set()]


def test_a_modifier_keeps_the_class_unless_the_table_has_both(written: Path) -> None:
    (rule,) = (rule for rule in statement_rules({"147", "147+366", "147+367", "999+1"}) if rule.name == "scored")
    assert dict(rule.labels) == {"147": "TAb", "147+366": "TAb", "147+367": "TInv"}


def test_classes_agree_with_the_correspondence_that_users_of_sph_published(recordings: Path) -> None:
    scored = scored_rule()
    with (recordings / "challenge2021/AHA_SNOMED_mapping.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    (rule,) = (rule for rule in statement_rules({row["AHA_Code"] for row in rows}) if rule.name == "scored")
    assert len(rows) == 23
    assert dict(rule.labels) == {row["AHA_Code"]: scored.labels[row["SNOMEDCTCode"]] for row in rows}


def test_the_real_sample_goes_in_and_its_record_without_a_row_is_quarantined(sample: Path) -> None:
    source = reader(sample, n_folds=9)
    block = read_whole(source)
    assert [each.record_id for each in block.quarantined] == ["SPH00005"]
    assert "metadata.csv has no row for it" in block.quarantined[0].reason
    assert source.header.label_sets["all"].names == ("1", "22", "23", "106")
    assert block.labels["all"].sum(axis=0).tolist() == [6, 1, 2, 1]
    lead = dict(zip(source.header.lead_names, np.moveaxis(block.ecg_NLT, 1, 0), strict=True))
    np.testing.assert_allclose(lead["I"] + lead["III"], lead["II"], atol=0.004)  # float16 steps
    np.testing.assert_allclose(lead["aVF"], (lead["II"] + lead["III"]) / 2, atol=0.004)
    with pytest.raises(ValueError, match="10 patient-disjoint folds need at least 10 patients, but there are 9"):
        reader(sample)


def test_the_real_samples_classes_are_the_snomed_codes_of_its_table(sample: Path) -> None:
    source = reader(sample, n_folds=9)
    block, names = read_whole(source), source.header.label_sets["scored"].names
    with (sample / "metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        codes = {row["ECG_ID"].removesuffix(".h5"): row["SNOMEDCTCode"].split(",") for row in csv.DictReader(file)}
    for record_id, row in zip(block.record_ids.tolist(), block.labels["scored"], strict=True):
        assert {names[k] for k in np.flatnonzero(row)} == {scored_rule().labels[code] for code in codes[record_id]}


def test_missing_records_are_refused_unless_skipping_is_asked(written: Path) -> None:
    (written / "records/A00003.h5").unlink()
    with pytest.raises(ValueError, match=r"1 of 36 records are not on disk, the first is A00003\.h5; .*--skip-missing"):
        reader(written)
    source = reader(written, skip_missing=True)
    assert "A00003" not in read_whole(source).record_ids
    assert "1 records of the table are left out, as their files were not on disk" in source.header.notes


def test_a_damaged_record_is_quarantined(written: Path) -> None:
    (written / "records/A00001.h5").write_bytes(b"no HDF5")
    with h5py.File(written / "records/A00002.h5", "w") as file:
        file["signal"] = np.zeros((12, 5000))
    with h5py.File(written / "records/A00003.h5", "w") as file:
        file["ecg"] = np.zeros((8, 5000), np.float16)
    block = read_whole(reader(written))
    reasons = dict(block.quarantined)
    assert reasons["A00001"].startswith("can't be read as HDF5 with a data set 'ecg'")
    assert reasons["A00002"].startswith("can't be read as HDF5 with a data set 'ecg'")
    assert reasons["A00003"] == "12 leads are named, but the signal has the shape (8, 5000)"
    assert len(block.record_ids) == 33


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("AHA_Code", "Code", "no column 'AHA_Code'"),
        ("22;147+367", "22;TInv", r"A00002: AHA_Code must be numbers as 22;147\+367, got 'TInv'"),
        ("A00002,", "A00001,", "ECG_ID A00001 has several rows"),
    ],
)
def test_a_malformed_table_is_refused(written: Path, old: str, new: str, message: str) -> None:
    path = written / "metadata.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        reader(written, skip_missing=True)
    path.unlink()
    with pytest.raises(ValueError, match=r"metadata\.csv can't be read"):
        reader(written)
