"""One ECG reads the same out of every format; what a file lacks is asked for, not guessed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import wfdb
from numpy.typing import NDArray

from data.ingest import ingest_serially
from data.leads import LEADS_12
from data.record_reader import RawRecord
from data.recording import FileFormat, Recording, complete_leads, read_recordings
from data.synthetic import SyntheticConfig, SyntheticReader

LEADS = ("I", "II", "V1")
FS_HZ = 100.0
FORM = FileFormat(LEADS, fs_hz=FS_HZ)


@pytest.fixture
def ecg_LT() -> NDArray[np.float64]:
    rng = np.random.default_rng(0)
    return np.round(rng.normal(0, 0.5, (3, 250)), 3)


def read(path: Path, form: FileFormat = FORM) -> list[Recording]:
    return list(read_recordings(path, form))


def check(recordings: list[Recording], ecg_LT: NDArray[np.float64], name: str = "ecg", atol: float = 1e-6) -> None:
    (recording,) = recordings
    record = recording.record
    assert (recording.record_id, record.lead_names, record.fs_hz) == (name, LEADS, FS_HZ)
    np.testing.assert_allclose(record.ecg_LT, ecg_LT, atol=atol)


def write_wfdb(folder: Path, ecg_LT: NDArray[np.float64], fs_hz: float = FS_HZ) -> None:
    wfdb.wrsamp(
        "ecg", fs=fs_hz, units=["mV"] * 3, sig_name=list(LEADS), p_signal=ecg_LT.T, fmt=["16"] * 3,
        adc_gain=[1000.0] * 3, baseline=[0] * 3, write_dir=str(folder),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ecg", "ecg.hea", "ecg.dat"])
def test_wfdb_by_its_header_its_stem_or_its_signal(tmp_path: Path, ecg_LT: NDArray[np.float64], name: str) -> None:
    write_wfdb(tmp_path, ecg_LT)
    check(read(tmp_path / name), ecg_LT, atol=5e-4)
    check(read(tmp_path / name, FileFormat(LEADS, fs_hz=999)), ecg_LT, atol=5e-4)  # it says its own rate


def test_npy_of_one_record_or_of_several(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    np.save(tmp_path / "ecg.npy", ecg_LT)
    check(read(tmp_path / "ecg.npy"), ecg_LT)
    np.save(tmp_path / "two.npy", np.stack([ecg_LT, 2 * ecg_LT]))
    assert [each.record_id for each in read(tmp_path / "two.npy")] == ["two/0", "two/1"]
    np.testing.assert_array_equal(read(tmp_path / "two.npy")[1].record.ecg_LT, 2 * ecg_LT)


def test_csv_with_and_without_a_header(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    table = pd.DataFrame(ecg_LT.T, columns=LEADS)
    table.to_csv(tmp_path / "ecg.csv", index=False, header=False)
    check(read(tmp_path / "ecg.csv"), ecg_LT)
    table.insert(0, "time", np.arange(250) / FS_HZ)
    table.to_csv(tmp_path / "ecg.csv", index=False, sep=";")
    check(read(tmp_path / "ecg.csv"), ecg_LT)


def test_parquet_with_a_column_a_lead(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    pd.DataFrame(ecg_LT.T, columns=LEADS).to_parquet(tmp_path / "ecg.parquet")
    check(read(tmp_path / "ecg.parquet"), ecg_LT)


def test_hdf5_of_one_record_that_says_its_rate(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    with h5py.File(tmp_path / "ecg.h5", "w") as file:
        file["ecg"] = ecg_LT
        file.attrs["fs_hz"] = FS_HZ
    check(read(tmp_path / "ecg.h5", FileFormat(LEADS)), ecg_LT)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_hdf5_of_several_records_in_either_order_of_axes(
    tmp_path: Path, ecg_LT: NDArray[np.float64], order: tuple[int, ...]
) -> None:
    with h5py.File(tmp_path / "part.hdf5", "w") as file:
        file["tracings"] = np.stack([ecg_LT, 2 * ecg_LT]).transpose(order)
    second = read(tmp_path / "part.hdf5")[1]
    assert second.record_id == "part/1"
    np.testing.assert_array_equal(second.record.ecg_LT, 2 * ecg_LT)


def test_hdf5_in_codes_own_layout_of_four_axes(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    with h5py.File(tmp_path / "set.hdf5", "w") as file:
        file["record_set"] = ecg_LT[np.newaxis, :, np.newaxis]
    check(read(tmp_path / "set.hdf5"), ecg_LT, name="set/0")


@pytest.mark.parametrize("shard_format", ["hdf5", "parquet"])
def test_a_store_and_one_of_its_shards_hold_the_same_records(tmp_path: Path, shard_format: str) -> None:
    reader = SyntheticReader(SyntheticConfig(task="rhythm", n_records=50, fs_hz=50, duration_s=2))
    manifest = ingest_serially(reader, tmp_path / "store", shard_format=shard_format)  # type: ignore[arg-type]
    form = FileFormat(LEADS_12, fs_hz=50)
    whole = read(tmp_path / "store", form)
    shards = [each for shard in manifest.shards for each in read(tmp_path / "store" / shard.file, form)]
    assert len(whole) == 50
    for ours, theirs in zip(whole, shards, strict=True):
        assert ours.record_id == theirs.record_id
        np.testing.assert_array_equal(ours.record.ecg_LT, theirs.record.ecg_LT)
    expected = reader.read(reader.chunks()[0])
    assert [each.record_id for each in whole] == expected.record_ids.tolist()
    np.testing.assert_array_equal(whole[0].record.ecg_LT, expected.ecg_NLT[0])


def test_unnamed_leads_are_the_models_or_the_standard_twelve_or_those_given(tmp_path: Path) -> None:
    np.save(tmp_path / "ecg.npy", np.ones((12, 50)))
    assert read(tmp_path / "ecg.npy")[0].record.lead_names == LEADS_12
    np.save(tmp_path / "ecg.npy", np.ones((2, 50)))
    given = FileFormat(LEADS, ("II", "V5"), FS_HZ)
    assert read(tmp_path / "ecg.npy", given)[0].record.lead_names == ("II", "V5")
    with pytest.raises(ValueError, match=r"ecg.npy: it has 2 leads without names; .*--leads I,II"):
        read(tmp_path / "ecg.npy")


def test_given_names_replace_a_files_own(tmp_path: Path, ecg_LT: NDArray[np.float64]) -> None:
    write_wfdb(tmp_path, ecg_LT)
    assert read(tmp_path / "ecg", FileFormat(LEADS, ("a", "b", "c")))[0].record.lead_names == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"it has 3 leads, I, II, V1, but --leads names 1"):
        read(tmp_path / "ecg", FileFormat(LEADS, ("a",)))


def test_what_is_wrong_is_said_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    def refused(name: str, match: str, form: FileFormat = FORM) -> None:
        with pytest.raises(ValueError, match=match) as caught:
            read(tmp_path / name, form)
        assert name in str(caught.value) and "\n" not in str(caught.value)

    refused("gone.npy", "there is no such file, store or WFDB record")
    (tmp_path / "ecg.txt").write_text("1 2 3")
    refused("ecg.txt", "its format is not known; known are .hea")
    np.save(tmp_path / "ecg.npy", np.ones((50, 3)))
    refused("ecg.npy", "it is transposed")
    np.save(tmp_path / "ok.npy", np.ones((3, 50)))
    refused("ok.npy", "--fs-hz", FileFormat(LEADS))
    np.save(tmp_path / "deep.npy", np.ones((1, 1, 3, 50)))
    refused("deep.npy", "an array of leads x timesteps")
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    refused("bad.npy", "bad.npy")
    (tmp_path / "bad.h5").write_bytes(b"no")
    refused("bad.h5", "bad.h5")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    refused("bad.parquet", "can't be read as Parquet")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["labels"] = np.ones(3)
    refused("other.h5", "it has no dataset called ecg")
    (tmp_path / "words.csv").write_text("I,II,V1\n1,2,three\n")
    refused("words.csv", "column 'V1' holds other things than numbers")
    (tmp_path / "names.csv").write_text("a,b\n1,2\n")
    refused("names.csv", "none of its columns a, b is a lead")
    (tmp_path / "wide.csv").write_text("1,2,3,4,5\n1,2,3,4,5\n1,2,3,4,5\n")
    refused("wide.csv", "a row a timestep and a column a lead are needed")


def test_limb_leads_follow_from_two_and_others_are_zero_only_where_that_is_allowed() -> None:
    one, two = np.random.default_rng(0).normal(size=(2, 30))
    record = RawRecord(np.stack([one, two]), FS_HZ, ("i", "II"))
    done, derived, zeroed = complete_leads(record, ("aVF", "I", "III", "V1"), zero_missing=True)
    assert (derived, zeroed) == (("aVF", "III"), ("V1",))
    rows = dict(zip(done.lead_names, done.ecg_LT, strict=True))
    np.testing.assert_allclose(rows["III"], two - one)
    np.testing.assert_allclose(rows["aVF"], two - one / 2)
    assert not rows["V1"].any()
    with pytest.raises(ValueError, match=r"the model's lead V1 is missing: it has .*; --zero-missing-leads sets"):
        complete_leads(record, ("I", "V1"), zero_missing=False)
    with pytest.raises(ValueError, match="it has none of the model's leads V5, V6"):
        complete_leads(record, ("V5", "V6"), zero_missing=True)


def test_a_record_with_all_leads_is_left_as_it_is() -> None:
    record = RawRecord(np.ones((2, 5)), FS_HZ, ("II", "I"))
    done, derived, zeroed = complete_leads(record, ("I",), zero_missing=False)
    assert (done.lead_names, derived, zeroed) == (("II", "I"), (), ())
