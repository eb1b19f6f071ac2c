"""Challenge 2017: labels of a chosen version, records on disk or in a zip, and what becomes of noise."""

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import io as scipy_io

from data.kinds.challenge2017 import Challenge2017Config, build_reader
from data.record_reader import RecordReader
from tests.data.wfdb_files import random_values, write_record
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(Challenge2017Config.model_validate({"source": str(source), **options}))


@pytest.fixture(scope="module")
def published(recordings: Path) -> Path:
    return recordings / "challenge2017"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Twelve records of 2 s, three of each class, with a reference."""
    folder = tmp_path / "training2017"
    for number in range(1, 13):
        values = random_values(number, n_leads=1, n_timesteps=600)
        write_record(folder / f"A{number:05d}", values, leads=("ECG",), fs_hz=300)
    rows = [f"A{number:05d},{'NAO~'[number % 4]}" for number in range(1, 13)]
    (folder / "REFERENCE.csv").write_text("\n".join(rows) + "\n")
    return folder


def zip_of(folder: Path) -> Path:
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"training2017/{path.name}")
    return archive


def test_the_real_zip_is_read_as_it_is(published: Path) -> None:
    source = reader(published / "training2017_subset1284.zip", skip_missing=True)
    assert "7,244 records of the reference are left out, as their files were not there" in source.header.notes
    assert source.header.notes[0] == "labels are those of REFERENCE.csv: N 5,050, A 738, O 2,456, ~ 284"
    first = source.read(source.chunks()[0])
    with zipfile.ZipFile(published / "training2017_subset1284.zip") as archive:
        raw = scipy_io.loadmat(archive.open("training2017_subset/A00004.mat"))["val"]
    row = first.record_ids.tolist().index("A00004")
    np.testing.assert_allclose(first.ecg_NLT[row, :, : raw.shape[1]], raw[:, :9000] / 1000, rtol=1e-6)
    assert first.quarantined == ()


def test_classes_and_folds_of_the_real_zip_are_as_counted(published: Path) -> None:
    source = reader(published / "training2017_subset1284.zip", skip_missing=True)
    index = [chunk.index for chunk in source.chunks()]
    rhythm = np.concatenate([each.labels["rhythm"][:, 0] for each in index])
    folds = np.concatenate([each.folds for each in index])
    assert np.bincount(rhythm.astype(int)).tolist() == [350, 350, 300, 284]  # N, A, O, ~
    assert sum(each.labels["af"].sum() for each in index) == 350
    for label in range(4):
        assert np.ptp(np.bincount(folds[rhythm == label], minlength=11)[1:]) <= 1


def test_the_first_labels_are_taken_where_asked_for(published: Path) -> None:
    zipped = published / "training2017_subset1284.zip"
    source = reader(zipped, skip_missing=True, reference=str(published / "REFERENCE-original.csv"))
    assert source.header.notes[0].endswith("REFERENCE-original.csv: N 5,154, A 771, O 2,557, ~ 46")
    source = reader(zipped, reference=str(published / "subset_labels.csv"))
    assert len(source.header.notes) == 2


def test_a_folder_and_its_zip_give_the_same_records(written: Path) -> None:
    unzipped, zipped = (read_whole(reader(source, duration_s=2)) for source in (written, zip_of(written)))
    np.testing.assert_array_equal(unzipped.ecg_NLT, zipped.ecg_NLT)
    np.testing.assert_array_equal(unzipped.folds, zipped.folds)
    np.testing.assert_allclose(unzipped.ecg_NLT[4], random_values(5, 1, 600) / 1000, rtol=1e-6)
    assert unzipped.labels["rhythm"][:, 0].tolist() == [1, 2, 3, 0] * 3
    assert unzipped.labels["af"][:, 0].tolist() == [1, 0, 0, 0] * 3


def test_short_records_are_padded_to_thirty_seconds(written: Path) -> None:
    block = read_whole(reader(written))
    assert block.ecg_NLT.shape == (12, 1, 9000)
    assert set(block.length_N.tolist()) == {600}
    assert not block.ecg_NLT[:, :, 600:].any()


def test_version_3_of_the_labels_goes_before_the_others(written: Path) -> None:
    rows = (written / "REFERENCE.csv").read_text()
    (written / "REFERENCE-v3.csv").write_text(rows.replace("A00001,A", "A00001,N"))
    for source in (written, zip_of(written)):
        assert "REFERENCE-v3.csv: N 4, A 2" in reader(source).header.notes[0]
    (written.parent / "REFERENCE-v3.csv").write_text(rows.replace("A00001,A", "A00001,O"))
    assert "REFERENCE-v3.csv: N 3, A 2, O 4" in reader(zip_of(written)).header.notes[0]


def test_noise_is_dropped_where_asked_for(written: Path) -> None:
    source = reader(written, drop_noise=True, n_folds=3)
    assert source.header.label_sets["rhythm"].names == ("N", "A", "O")
    assert Counter(read_whole(source).labels["rhythm"][:, 0].tolist()) == {0: 3, 1: 3, 2: 3}
    assert "records of class ~ (noise) are left out" in source.header.notes


def test_each_record_is_in_one_fold_and_the_seed_decides(written: Path) -> None:
    first, other = (read_whole(reader(written, seed=seed)) for seed in (18, 19))
    assert set(first.folds.tolist()) == set(range(1, 11))
    assert len(set(first.record_ids.tolist())) == 12
    assert (first.folds != other.folds).any()


def test_a_record_without_a_class_is_quarantined(written: Path) -> None:
    write_record(written / "B1", random_values(0, 1, 600), leads=("ECG",), fs_hz=300)
    (quarantined,) = read_whole(reader(written)).quarantined
    assert quarantined == ("B1", "REFERENCE.csv has no row for it, so its class is unknown")


def test_missing_records_are_refused_unless_skipping_is_asked(written: Path) -> None:
    (written / "A00003.mat").unlink()
    for source in (written, zip_of(written)):
        with pytest.raises(ValueError, match=r"1 of the 12 records .* the first is A00003; .*--skip-missing"):
            reader(source)
        assert "A00003" not in read_whole(reader(source, skip_missing=True)).record_ids
    for path in written.glob("*.mat"):
        path.unlink()
    with pytest.raises(ValueError, match=r"none of the 12 records of REFERENCE\.csv is there"):
        reader(written, skip_missing=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("record,class\nA00001,X\n", r"row 2 must be a record and its class, one of N A O ~, got 'A00001,X'"),
        ("A00001,N\nA00001,A\n", "row 2 gives record A00001 another class than a row before"),
        ("A00001,N,1\n", "row 1 must be a record and its class"),
    ],
)
def test_a_malformed_reference_is_refused(written: Path, content: str, message: str) -> None:
    (written / "REFERENCE.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        reader(written)


def test_a_malformed_source_is_refused(written: Path) -> None:
    with pytest.raises(ValueError, match=r"is neither a folder nor a zip that can be read"):
        reader(written / "REFERENCE.csv")
    write_record(written / "validation/A00001", random_values(1, 1, 600), leads=("ECG",), fs_hz=300)
    with pytest.raises(ValueError, match="record A00001 is there twice"):
        reader(written)
    (written / "REFERENCE.csv").unlink()
    (written / "validation/A00001.hea").unlink()
    with pytest.raises(ValueError, match=r"neither REFERENCE-v3.csv nor REFERENCE.csv .* --reference"):
        reader(written)
