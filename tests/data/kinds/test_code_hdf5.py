"""AdaGrad-Fusion's HDF5 layout: files written here, and exports of stores."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from data.dataset import LabelSet
from data.ingest import ingest_serially
from data.kinds.code_hdf5 import CodeHdf5Config, build_reader, export_code_hdf5, one_hot
from data.kinds.ptbxl import PtbxlConfig
from data.kinds.ptbxl import build_reader as build_ptbxl
from data.leads import LEADS_12
from data.reader import RecordBlock, join_blocks
from data.record_reader import RecordReader
from data.store import CorruptShard, read_manifest, read_shard
from tests.data.whole import read_whole

N, T, C = 40, 300, 4
RNG = np.random.default_rng(5)
ECG_NLT = RNG.normal(size=(N, 12, T)).astype(np.float32)
LABELS_NC = (RNG.random((N, C)) < 0.3).astype(np.float32)


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(CodeHdf5Config.model_validate({"source": str(source), "fs_hz": 400, **options}))


def write(path: Path, **datasets: NDArray[np.generic]) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return path


@pytest.fixture
def one_file(tmp_path: Path) -> Path:
    path = tmp_path / "class_sepe4_dataset_Chapman_32.hdf5"
    return write(path, record_set=ECG_NLT[:, :, np.newaxis], label_set=LABELS_NC)


def test_signals_and_labels_of_one_file_are_its_own(one_file: Path) -> None:
    source = reader(one_file)
    block = read_whole(source)
    np.testing.assert_array_equal(block.ecg_NLT, ECG_NLT)
    np.testing.assert_array_equal(block.labels["labels"], LABELS_NC)
    assert block.record_ids[[0, 7, 39]].tolist() == ["00", "07", "39"]
    assert source.header.label_sets["labels"] == LabelSet(
        "labels", "multilabel", ("class0", "class1", "class2", "class3")
    )
    assert (source.header.fs_hz, source.header.n_timesteps, source.header.lead_names) == (400, T, LEADS_12)


def test_two_files_without_the_axis_of_one_are_read_alike(tmp_path: Path, one_file: Path) -> None:
    signals = write(tmp_path / "signals.hdf5", record_set=ECG_NLT)
    labels = write(tmp_path / "labels.hdf5", label_set=LABELS_NC.astype(np.int8))
    with pytest.raises(ValueError, match=r"signals.hdf5 has no dataset 'label_set', only record_set; .*--labels-file"):
        reader(signals)
    block, expected = read_whole(reader(signals, labels_file=str(labels))), read_whole(reader(one_file))
    np.testing.assert_array_equal(block.ecg_NLT, expected.ecg_NLT)
    np.testing.assert_array_equal(block.labels["labels"], expected.labels["labels"])
    np.testing.assert_array_equal(block.folds, expected.folds)


def test_folds_are_ten_by_record_and_it_is_said_that_patients_are_unknown(one_file: Path) -> None:
    source = reader(one_file)
    assert not source.header.patients_known
    assert "records of one patient may be in several folds" in source.header.notes[0]
    assert np.bincount(read_whole(source).folds)[1:].tolist() == [4] * 10


def test_zeros_at_the_end_of_a_record_are_padding_and_a_record_of_zeros_is_quarantined(tmp_path: Path) -> None:
    padded_NLT = ECG_NLT.copy()
    padded_NLT[3, :, 200:] = 0
    padded_NLT[3, :, :10] = 0  # at the beginning it is signal
    padded_NLT[4] = 0
    padded_NLT[5, 2, 7] = np.nan
    block = read_whole(reader(write(tmp_path / "a.hdf5", record_set=padded_NLT, label_set=LABELS_NC)))
    assert block.length_N[[2, 3]].tolist() == [T, 200]
    np.testing.assert_array_equal(block.ecg_NLT[3], padded_NLT[3])
    assert [each.record_id for each in block.quarantined] == ["04", "05"]
    assert block.quarantined[0].reason == "no signal: it has no timesteps"
    assert "1 values are not finite" in block.quarantined[1].reason


def test_label_names_are_given_by_an_option(one_file: Path) -> None:
    names = reader(one_file, label_names="AF, LBBB,NSR,1").header.label_sets["labels"].names
    assert names == ("AF", "LBBB", "NSR", "1")
    with pytest.raises(ValueError, match="label_set has 4 columns, but there are 2 label names"):
        reader(one_file, label_names="AF,NSR")
    with pytest.raises(ValueError, match="label names must be different and not empty, got AF, AF"):
        reader(one_file, label_names="AF,AF")


def test_one_column_is_a_binary_label(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", record_set=ECG_NLT, label_set=LABELS_NC[:, :1])
    assert reader(path, label_names="AF").header.label_sets["labels"] == LabelSet("labels", "binary", ("AF",))


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((5, 300, 12), r"got \(5, 300, 12\); transpose it"),
        ((5, 8, 300), r"got \(5, 8, 300\); write it anew"),
        ((5, 12, 2, 300), r"got \(5, 12, 2, 300\)"),
        ((0, 12, 300), r"got \(0, 12, 300\)"),
    ],
)
def test_signals_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...], remedy: str) -> None:
    path = write(tmp_path / "a.hdf5", record_set=np.ones(shape, np.float32), label_set=np.ones((shape[0], 2)))
    with pytest.raises(ValueError, match=r"record_set must have the shape \(N, 12, 1, T\) or \(N, 12, T\), " + remedy):
        reader(path)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", record_set=ECG_NLT, label_set=LABELS_NC[1:])
    with pytest.raises(ValueError, match=r"label_set must have the shape \(N, C\) with N = 40 .* got \(39, 4\)"):
        reader(path)
    path = write(tmp_path / "b.hdf5", record_set=ECG_NLT, label_set=LABELS_NC * 2)
    with pytest.raises(ValueError, match=r"label_set: row \d+, column \d must be 0 or 1, got 2"):
        reader(path)


def test_a_file_that_is_missing_or_no_hdf5_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.hdf5 can't be read as HDF5 \(there is no such file\)"):
        reader(tmp_path / "nowhere.hdf5")
    (tmp_path / "text.hdf5").write_text("a,b")
    with pytest.raises(ValueError, match=r"text.hdf5 can't be read as HDF5 .*fetch it anew"):
        reader(tmp_path / "text.hdf5")


# ---------------------------------------------------------------------- export


def stored(store: Path) -> RecordBlock:
    return join_blocks([read_shard(store, shard) for shard in read_manifest(store).shards])


@pytest.fixture(scope="module")
def ptbxl_store(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 40 records of PTB-XL at 500 Hz, in three shards."""
    store = tmp_path_factory.mktemp("stores") / "ptbxl"
    config = PtbxlConfig(source=str(recordings / "ptbxl"), fs_hz=500, skip_missing=True)
    ingest_serially(build_ptbxl(config), store, n_records_per_shard=15)
    return store


def test_a_store_that_is_exported_and_read_again_has_equal_signals_and_labels(
    ptbxl_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "class_sepe5_dataset_PTBXL_32.hdf5"
    exported = export_code_hdf5(ptbxl_store, "diag_superclass", out)
    assert (exported.n_records, exported.n_left_out, exported.n_timesteps) == (40, 0, 5000)
    source = reader(out, fs_hz=500)
    assert source.header.label_sets["labels"].names == exported.label_names
    ingest_serially(source, tmp_path / "again")
    first, again = stored(ptbxl_store), stored(tmp_path / "again")
    np.testing.assert_array_equal(again.ecg_NLT, first.ecg_NLT)
    np.testing.assert_array_equal(again.length_N, first.length_N)
    np.testing.assert_array_equal(again.labels["labels"], first.labels["diag_superclass"])
    with pytest.raises(ValueError, match=r"was exported at 500 Hz, but --fs-hz is 400"):
        reader(out, fs_hz=400)


def test_an_export_has_the_published_layout_and_is_padded_or_cut_on_demand(ptbxl_store: Path, tmp_path: Path) -> None:
    first = stored(ptbxl_store)
    for n_timesteps in (6144, 1000):
        out = tmp_path / f"{n_timesteps}.hdf5"
        export_code_hdf5(ptbxl_store, "rhythm", out, n_timesteps)
        with h5py.File(out) as file:
            assert file["record_set"].shape == (40, 12, 1, n_timesteps)
            assert (file["record_set"].dtype, file["label_set"].dtype) == (np.float32, np.float32)
            kept = min(n_timesteps, 5000)
            np.testing.assert_array_equal(file["record_set"][:, :, 0, :kept], first.ecg_NLT[:, :, :kept])
            assert not file["record_set"][:, :, 0, kept:].any()
    again = read_whole(reader(tmp_path / "6144.hdf5", fs_hz=500))
    np.testing.assert_array_equal(again.length_N, first.length_N)


def test_classes_become_one_column_each_and_unlabelled_records_stay_unlabelled() -> None:
    labels_NK = np.array([[2], [0], [np.nan]], np.float32)
    columns_NK = one_hot(labels_NK, LabelSet("a", "multiclass", ("x", "y", "z")))
    np.testing.assert_array_equal(columns_NK, [[0, 0, 1], [1, 0, 0], [np.nan] * 3])


def test_what_has_no_place_in_the_layout_is_refused_and_leaves_nothing(ptbxl_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.hdf5"
    with pytest.raises(ValueError, match="has no label set 'nope'; it has: all, diag"):
        export_code_hdf5(ptbxl_store, "nope", out)
    with pytest.raises(ValueError, match="`n_timesteps >= 1` must hold, but got 0"):
        export_code_hdf5(ptbxl_store, "all", out, 0)
    with pytest.raises(ValueError, match="is no store"):
        export_code_hdf5(tmp_path, "all", out)
    out.write_text("mine")
    with pytest.raises(ValueError, match=r"out\.hdf5 exists; nothing is overwritten"):
        export_code_hdf5(ptbxl_store, "all", out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.hdf5"] and out.read_text() == "mine"


def test_a_store_with_a_damaged_shard_leaves_no_export(ptbxl_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(ptbxl_store, store)
    path = store / read_manifest(store).shards[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptShard, match="is corrupt: its sha256"):
        export_code_hdf5(store, "all", tmp_path / "out.hdf5")
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
