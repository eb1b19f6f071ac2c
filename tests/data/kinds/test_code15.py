"""CODE-15 %: exams in parts as on Zenodo, written here, and the sample's single exams."""

import shutil
from pathlib import Path

import cloudpickle
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from numpy.typing import NDArray

from data.kinds.code15 import DIAGNOSES, Code15Config, build_reader, strip_zeros
from data.record_reader import RecordReader
from tests.data.whole import read_whole

LENGTHS = (2934, 4096)  # of exams of 7 and 10 s


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(Code15Config.model_validate({"source": str(source), **options}))


def exams_table(n_exams: int) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    flags = {name: rng.random(n_exams) < 0.3 for name in ("is_male", *DIAGNOSES, "normal_ecg")}
    return pd.DataFrame(
        {
            "exam_id": 1000 + rng.permutation(n_exams),
            "age": rng.integers(18, 90, n_exams),
            "is_male": flags["is_male"],
            "nn_predicted_age": rng.uniform(18, 90, n_exams),
            **{name: flags[name] for name in DIAGNOSES},
            "patient_id": 50 + np.arange(n_exams) // 2,  # two exams each
            "death": [False if row % 2 else None for row in range(n_exams)],
            "timey": [1.5 if row % 2 else None for row in range(n_exams)],
            "normal_ecg": flags["normal_ecg"],
            "trace_file": [f"exams_part{row % 2}.hdf5" for row in range(n_exams)],
        }
    )


def tracing(exam_id: int) -> NDArray[np.float32]:
    """Return an exam as it is published: timesteps x leads, of the one length or the other, in the middle of zeros."""
    length = LENGTHS[exam_id % 2]
    signal_TL = np.random.default_rng(exam_id).normal(0, 0.5, (length, 12)).astype(np.float32)
    before = (4096 - length) // 2
    return np.pad(signal_TL, ((before, 4096 - length - before), (0, 0)))


@pytest.fixture
def zenodo(tmp_path: Path) -> Path:
    """28 exams of 14 patients in two parts, each with an empty row at its end."""
    exams = exams_table(28)
    exams.to_csv(tmp_path / "exams.csv", index=False)
    for name, part in exams.groupby("trace_file"):
        ids = [*part.exam_id.tolist(), 0]
        with h5py.File(tmp_path / str(name), "w") as file:
            file["exam_id"] = np.array(ids)
            file["tracings"] = np.stack([*map(tracing, ids[:-1]), np.zeros((4096, 12), np.float32)])
    return tmp_path


def test_every_exam_gets_its_own_signal_without_the_padding_and_its_own_row(zenodo: Path) -> None:
    block = read_whole(reader(zenodo))
    exams = pd.read_csv(zenodo / "exams.csv").set_index("exam_id")
    assert sorted(block.record_ids.astype(int)) == sorted(exams.index)
    assert block.quarantined == ()
    for row, exam_id in enumerate(block.record_ids.astype(int).tolist()):
        published_TL = tracing(exam_id)
        signal_TL = published_TL[published_TL.any(axis=1)]
        assert block.length_N[row] == len(signal_TL) == LENGTHS[exam_id % 2]
        np.testing.assert_array_equal(block.ecg_NLT[row, :, : len(signal_TL)], signal_TL.T)
        assert not block.ecg_NLT[row, :, len(signal_TL) :].any()
        exam = exams.loc[exam_id]
        assert block.patient_ids[row] == str(exam.patient_id)
        assert block.labels["diagnosis"][row].tolist() == [exam[name] for name in DIAGNOSES]
        assert block.labels["normal"][row, 0] == exam.normal_ecg
        assert (block.labels["age"][row, 0], block.meta["age"][row]) == (exam.age, exam.age)
        assert (block.labels["sex"][row, 0], block.meta["sex"][row]) == (exam.is_male, 1 - exam.is_male)
        np.testing.assert_equal(block.meta["timey"][row], np.float32(exam.timey))


def test_exams_are_at_400_hz_and_resampled_on_demand(zenodo: Path) -> None:
    header = reader(zenodo).header
    assert (header.fs_hz, header.n_timesteps) == (400, 4096)
    half = read_whole(reader(zenodo, fs_hz=200))
    assert set(half.length_N.tolist()) == {length // 2 for length in LENGTHS}


def test_folds_are_disjoint_by_patient(zenodo: Path) -> None:
    block = read_whole(reader(zenodo))
    by_patient = pd.DataFrame({"patient": block.patient_ids, "fold": block.folds}).groupby("patient").fold.nunique()
    assert len(by_patient) == 14 and (by_patient == 1).all()
    assert set(block.folds.tolist()) == set(range(1, 11))


def test_an_exam_that_is_in_the_table_or_in_a_part_only_is_quarantined(zenodo: Path) -> None:
    exams = pd.read_csv(zenodo / "exams.csv")
    lost, unlisted = int(exams.exam_id[0]), int(exams.exam_id[1])
    exams["exam_id"] = exams.exam_id.replace(unlisted, 7)
    exams.to_csv(zenodo / "exams.csv", index=False)
    with h5py.File(zenodo / "exams_part0.hdf5", "a") as file:
        ids = file["exam_id"][:]
        file["exam_id"][...] = np.where(ids == lost, 0, ids)
    block = read_whole(reader(zenodo))
    assert {(each.record_id, each.reason) for each in block.quarantined} == {
        (str(lost), "exams_part0.hdf5 has no such exam"),
        ("7", "exams_part1.hdf5 has no such exam"),
        (str(unlisted), "exams_part1.hdf5 has it, but exams.csv has no such exam"),
    }
    assert len(block.record_ids) == 26


def test_an_exam_of_zeros_is_quarantined(zenodo: Path) -> None:
    with h5py.File(zenodo / "exams_part0.hdf5", "a") as file:
        file["tracings"][3] = 0
        exam_id = str(file["exam_id"][3])
    block = read_whole(reader(zenodo))
    assert [(each.record_id, each.reason) for each in block.quarantined] == [
        (exam_id, "no signal: it has no timesteps")
    ]


def test_a_part_that_is_not_on_disk_is_refused_unless_skipping_is_asked(zenodo: Path) -> None:
    (zenodo / "exams_part1.hdf5").unlink()
    with pytest.raises(
        ValueError, match=r"files of 14 exams are not on disk, the first is exams_part1.*--skip-missing"
    ):
        reader(zenodo)
    source = reader(zenodo, skip_missing=True)
    assert "14 exams of the table are left out" in source.header.notes[1]
    assert len(read_whole(source).record_ids) == 14


def test_a_truncated_part_is_refused(zenodo: Path) -> None:
    path = zenodo / "exams_part0.hdf5"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"exams_part0.hdf5 can't be read as HDF5 .*truncated.*fetch it anew"):
        reader(zenodo)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("AF", "maybe", r"exam \d+: AF must be True or False, got 'maybe'"),
        ("normal_ecg", None, "no column 'normal_ecg'"),
        ("age", "old", r"exam \d+: age must be a number, got 'old'"),
        ("patient_id", "x", "row 2: patient_id must be a whole number, got 'x'"),
    ],
)
def test_a_malformed_table_is_refused(zenodo: Path, column: str, value: str | None, message: str) -> None:
    exams = pd.read_csv(zenodo / "exams.csv", dtype=object)
    if value is None:
        exams = exams.drop(columns=column)
    else:
        exams.loc[0, column] = value
    exams.to_csv(zenodo / "exams.csv", index=False)
    with pytest.raises(ValueError, match=message):
        reader(zenodo)


def test_a_part_of_another_shape_is_refused(zenodo: Path) -> None:
    with h5py.File(zenodo / "exams_part0.hdf5", "a") as file:
        tracings = file["tracings"][:]
        del file["tracings"]
        file["tracings"] = tracings.transpose(0, 2, 1)
    with pytest.raises(ValueError, match=r"tracings must be exams x timesteps x 12 leads of 15 exams"):
        reader(zenodo)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither exams.csv nor meta.csv"):
        reader(tmp_path)


def test_zeros_within_a_signal_and_in_single_leads_stay() -> None:
    ecg_LT = np.array([[0, 0, 1, 0, 0, 2, 0], [0, 0, 0, 0, 0, 3, 0]])
    assert strip_zeros(ecg_LT).tolist() == [[1, 0, 0, 2], [0, 0, 0, 3]]
    assert strip_zeros(np.zeros((2, 5))).shape == (2, 0)


def test_a_pickled_reader_reads_on_its_own(zenodo: Path) -> None:
    source = reader(zenodo)
    chunk = source.chunks()[0]
    expected = source.read(chunk)  # it has a file open now
    copy = cloudpickle.loads(cloudpickle.dumps(source)).read(chunk)
    np.testing.assert_array_equal(copy.ecg_NLT, expected.ecg_NLT)


# ---------------------------------------------------------------------- single exams


def test_the_samples_single_exams_have_the_labels_that_lie_beside_them(recordings: Path) -> None:
    source = reader(recordings / "code15")
    block = read_whole(source)
    assert block.quarantined == ()
    names = pd.read_csv(recordings / "code15/labels/label_def.csv").name.tolist()
    assert source.header.label_sets["ecg_fm"].names == tuple(names)
    np.testing.assert_array_equal(block.labels["ecg_fm"], np.load(recordings / "code15/labels/y.npy"))
    meta = pd.read_csv(recordings / "code15/meta.csv")
    assert block.length_N.tolist() == meta.sample_size.tolist()
    exam = scipy.io.loadmat(recordings / "code15/org/code_15_1238362.mat")["feats"]
    row = block.record_ids.tolist().index("1238362")
    np.testing.assert_array_equal(block.ecg_NLT[row, :, :2934], exam)


def test_the_samples_values_are_of_millivolts_and_its_leads_obey_goldberger(recordings: Path) -> None:
    block = read_whole(reader(recordings / "code15"))
    lead = dict(zip(reader(recordings / "code15").header.lead_names, np.moveaxis(block.ecg_NLT, 1, 0), strict=True))
    derived_NT = -(lead["I"] + lead["II"]) / 2
    assert np.median(np.abs(lead["aVR"] - derived_NT).max(axis=1)) < 0.02  # two exams have a bad electrode
    swing_N = np.array([np.ptp(lead["II"][row, :length]) for row, length in enumerate(block.length_N)])
    assert 1 < np.median(swing_N) < 4  # tenths of a mV would make it 0.1 to 0.4


def test_a_damaged_single_exam_is_quarantined_and_a_missing_one_refused(recordings: Path, tmp_path: Path) -> None:
    shutil.copytree(recordings / "code15/org", tmp_path / "org")
    shutil.copyfile(recordings / "code15/meta.csv", tmp_path / "meta.csv")
    path = tmp_path / "org/code_15_438277.mat"
    path.write_bytes(path.read_bytes()[:5000])
    [bad] = read_whole(reader(tmp_path)).quarantined
    assert bad.record_id == "438277" and bad.reason.startswith("can't be read as a .mat exam")
    path.unlink()
    with pytest.raises(ValueError, match=r"files of 1 exams are not on disk, the first is code_15_438277.mat"):
        reader(tmp_path)
