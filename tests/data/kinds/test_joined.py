"""Several stores as one: names, folds, leads and lengths of the records, and stores that don't go together."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.ingest import ingest_serially
from data.kinds.joined import JoinedConfig, build_reader
from data.kinds.numpy_dir import NumpyDirConfig
from data.kinds.numpy_dir import build_reader as read_arrays
from data.reader import Header, RecordBlock
from data.record_hashes import hash_records
from data.record_reader import RecordReader
from data.store import read_manifest
from data.synthetic import BlockRange, SyntheticConfig, SyntheticReader
from tests.data.whole import read_whole


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic records of 12 leads at 100 Hz, and 20 arrays of one lead at 200 Hz, 4 s long."""
    folder = tmp_path_factory.mktemp("stores")
    ingest_serially(SyntheticReader(SyntheticConfig(task="rhythm", n_records=60)), folder / "twelve")
    (folder / "arrays").mkdir()
    for record in range(20):
        np.save(folder / "arrays" / f"{record:02d}.npy", np.random.default_rng(record).normal(size=(1, 800)))
    config = NumpyDirConfig(source=str(folder / "arrays"), fs_hz=200, leads=("ECG",))
    ingest_serially(read_arrays(config), folder / "single")
    return folder


def reader(folder: Path, *names: str, **options: object) -> RecordReader:
    source = ",".join(str(folder / name) for name in names)
    return build_reader(JoinedConfig.model_validate({"source": source, "fs_hz": 100, **options}))


def test_records_keep_their_signal_and_folds_and_are_named_after_their_kind(stores: Path) -> None:
    joined, twelve = read_whole(reader(stores, "twelve")), read_whole_synthetic()
    assert joined.record_ids.tolist() == [f"synthetic:{record}" for record in twelve.record_ids]
    assert joined.patient_ids.tolist() == [f"synthetic:{patient}" for patient in twelve.patient_ids]
    np.testing.assert_array_equal(joined.folds, twelve.folds)
    np.testing.assert_array_equal(joined.ecg_NLT, twelve.ecg_NLT)
    assert joined.labels == {}


def read_whole_synthetic() -> RecordBlock:
    return read_whole(SyntheticReader(SyntheticConfig(task="rhythm", n_records=60)))


def test_records_that_lack_a_lead_are_left_out_with_the_reason(stores: Path) -> None:
    block = read_whole(reader(stores, "twelve", "single"))
    assert len(block.record_ids) == 60
    assert len(block.quarantined) == 20
    assert block.quarantined[0].reason.startswith("lead II is missing")


def test_zeros_stand_in_for_leads_where_that_is_asked_for(stores: Path) -> None:
    block = read_whole(reader(stores, "twelve", "single", missing="zero"))
    assert block.ecg_NLT.shape == (80, 12, 1000)
    single_NLT, length_N = block.ecg_NLT[60:], block.length_N[60:]
    assert set(length_N.tolist()) == {400}, "4 s at the joined rate"
    assert (single_NLT[:, 0, :400].std(axis=1) > 0.1).all(), "an only lead is I unless something else is said"
    assert not single_NLT[:, 1:].any()


def test_one_lead_of_all_stores_can_be_taken(stores: Path) -> None:
    block = read_whole(reader(stores, "twelve", "single", leads="II", single_lead="II"))
    assert block.ecg_NLT.shape == (80, 1, 1000)
    np.testing.assert_array_equal(block.ecg_NLT[:60, 0], read_whole_synthetic().ecg_NLT[:, 1])


def test_a_joined_store_is_one_of_joined_stores_and_its_records_have_the_hashes_of_their_own_kind(
    stores: Path, tmp_path: Path
) -> None:
    ingest_serially(reader(stores, "twelve", "single", missing="zero"), tmp_path / "store")
    manifest = read_manifest(tmp_path / "store")
    assert (manifest.kind, manifest.label_sets, manifest.patients_known) == ("joined", {}, False)
    again = read_whole(reader(tmp_path, "store"))
    ids = [record for record in again.record_ids.tolist() if record.startswith("numpy_dir")]
    assert hash_records("joined", ids) == hash_records("numpy_dir", [f"{record:02d}" for record in range(20)])


def test_the_same_records_twice_are_refused(stores: Path) -> None:
    with pytest.raises(ValueError, match=r"hold the record synthetic:p\d+-1 2 times; join stores of different data"):
        reader(stores, "twelve", "twelve")


def test_what_is_no_store_is_refused(stores: Path) -> None:
    with pytest.raises(ValueError, match=r"is no store, as it has no dataset\.json"):
        reader(stores, "twelve", "absent")


def test_other_folds_than_1_to_10_are_refused(stores: Path, tmp_path: Path) -> None:
    class OtherFolds(SyntheticReader):
        @property
        def header(self) -> Header:
            return replace(super().header, folds={"train": tuple(range(2, 10)), "val": (10,), "test": (11,)})

        def read(self, chunk: BlockRange) -> RecordBlock:
            block = super().read(chunk)
            return replace(block, folds=block.folds + np.int16(1))

    ingest_serially(OtherFolds(SyntheticConfig(task="rhythm", n_records=60)), tmp_path / "store")
    with pytest.raises(ValueError, match="has a fold 11, but joined stores keep folds 1 to 10 alone; leave it out"):
        reader(tmp_path, "store")
