"""IESD's layout: what file names say, exactly 1,250 values, subjects in one fold only."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from data.kinds.iesd import IesdConfig, build_reader
from data.record_reader import RecordReader
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(IesdConfig.model_validate({"source": str(source), **options}))


def write_part(folder: Path, subjects: range, n_each: int = 2) -> Path:
    """Write segments of some subjects: AFIB of the even ones, N of the odd ones."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for subject in subjects:
        for index in range(n_each):
            name = f"S{subject}-{('AFIB', 'N')[subject % 2]}-{index}.txt"
            (folder / name).write_text("\n".join(map(str, rng.normal(size=1250))))
    return folder


@pytest.fixture(scope="module")
def segments(recordings: Path) -> Path:
    return recordings / "af_segments" / "af_segments.zip"


def test_the_sample_has_340_subjects_and_954_segments_of_af(segments: Path) -> None:
    source = reader(segments)
    block = read_whole(source)
    assert block.ecg_NLT.shape == (1919, 1, 1250)
    assert not block.quarantined
    assert len(set(block.patient_ids.tolist())) == 340
    assert block.labels["af"].sum() == 954
    assert source.header.label_sets["rhythm"].names == ("AFIB", "N")
    assert np.bincount(block.labels["rhythm"][:, 0].astype(int)).tolist() == [954, 965]
    with zipfile.ZipFile(segments) as archive:
        values = archive.read("S1-N-0.txt").split()
    np.testing.assert_array_equal(block.ecg_NLT[0, 0], np.array(values, np.float32))


def test_no_subject_of_the_sample_is_in_two_folds(segments: Path) -> None:
    block = read_whole(reader(segments))
    pairs = set(zip(block.patient_ids.tolist(), block.folds.tolist(), strict=True))
    assert len(pairs) == 340
    sizes = np.bincount(block.folds, minlength=11)[1:]
    shares = [block.labels["af"][block.folds == fold].mean() for fold in range(1, 11)]
    assert sizes.min() > 150
    assert 0.4 < min(shares) < max(shares) < 0.6


def test_a_test_part_becomes_fold_10_and_the_training_part_the_others(tmp_path: Path) -> None:
    train, test = write_part(tmp_path / "a", range(20)), write_part(tmp_path / "b", range(20, 24))
    block = read_whole(reader(train, test=str(test)))
    is_test_N = np.array([int(subject[1:]) >= 20 for subject in block.patient_ids.tolist()])
    assert set(block.folds[is_test_N].tolist()) == {10}
    assert set(block.folds[~is_test_N].tolist()) == set(range(1, 10))


def test_a_subject_in_both_parts_is_refused(tmp_path: Path) -> None:
    train, test = write_part(tmp_path / "a", range(12)), write_part(tmp_path / "b", range(11, 14))
    with pytest.raises(ValueError, match=r"share 1 subjects, the first is S11; a subject must be in one part only"):
        reader(train, test=str(test))


def test_an_empty_rhythm_is_dropped_and_counted(tmp_path: Path) -> None:
    folder = write_part(tmp_path / "a", range(10))
    (folder / "S3--7.txt").write_text("1\n" * 1250)
    (folder / "notes.txt").write_text("hello")
    source = reader(folder)
    block = read_whole(source)
    assert dict(block.quarantined) == {
        "S3--7": "its name has an empty rhythm",
        "notes": "its name is not S<subject>-<rhythm>-<index>.txt",
    }
    assert "1 files are left out, as their names have an empty rhythm" in source.header.notes
    assert len(block.record_ids) == 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.5\n" * 1249, "it has 1,249 values; exactly 1,250 are needed"),
        ("0.5\n" * 1251, "it has 1,251 values"),
        ("", "it has 0 values"),
        ("0.5\n" * 1249 + "x\n", "could not convert string to float"),
        ("0.5\n" * 1250, "no signal: every lead is constant"),
    ],
)
def test_a_malformed_file_is_quarantined(tmp_path: Path, text: str, reason: str) -> None:
    folder = write_part(tmp_path / "a", range(10))
    (folder / "S3-N-0.txt").write_text(text)
    block = read_whole(reader(folder))
    assert len(block.record_ids) == 19
    ((record_id, found),) = block.quarantined
    assert record_id == "S3-N-0"
    assert found.startswith(reason)


def test_a_damaged_member_of_an_archive_is_quarantined(tmp_path: Path) -> None:
    folder, archive = write_part(tmp_path / "a", range(10)), tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in sorted(folder.iterdir()):
            zipped.write(path, f"train/{path.name}")
        start = zipped.getinfo("train/S4-AFIB-1.txt").header_offset
    content = bytearray(archive.read_bytes())
    content[start + 200] ^= 1
    archive.write_bytes(content)
    ((record_id, reason),) = read_whole(reader(archive)).quarantined
    assert (record_id, reason[:29]) == ("S4-AFIB-1", "it is damaged in the archive ")


def test_a_source_without_such_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no file with a name such as S0-AFIB-0.txt"):
        reader(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="can't be read as a zip archive"):
        reader(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"a folder or a .zip of text files is needed"):
        reader(tmp_path / "nowhere")
