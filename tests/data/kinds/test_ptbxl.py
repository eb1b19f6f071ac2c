"""PTB-XL: label sets and folds as the benchmark has them, and signals as WFDB has them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.ingest import ingest_serially
from data.kinds.ptbxl import PtbxlConfig, build_reader, statement_mappings
from data.loading import DataConfig, describe
from data.reader import take_rows
from data.record_reader import RecordReader
from data.store import read_manifest, read_table
from tests.data.whole import read_whole


def reader(source: Path, **options: object) -> RecordReader:
    return build_reader(PtbxlConfig.model_validate({"source": str(source), **options}))


@pytest.fixture(scope="module")
def ptbxl(recordings: Path) -> Path:
    return recordings / "ptbxl"


@pytest.fixture(scope="module")
def store(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of all 500 records."""
    folder = tmp_path_factory.mktemp("ptbxl") / "store"
    ingest_serially(reader(ptbxl), folder)
    return folder


@pytest.fixture
def copied(ptbxl: Path, tmp_path: Path) -> Path:
    """The first 12 records of the set in a folder that a test may damage."""
    database = pd.read_csv(ptbxl / "ptbxl_database.csv").head(12)
    (tmp_path / "records100/00000").mkdir(parents=True)
    for name in database.filename_lr:
        for suffix in (".hea", ".dat"):
            shutil.copyfile(ptbxl / f"{name}{suffix}", tmp_path / f"{name}{suffix}")
    shutil.copyfile(ptbxl / "scp_statements.csv", tmp_path / "scp_statements.csv")
    database.to_csv(tmp_path / "ptbxl_database.csv", index=False)
    return tmp_path


def test_signals_equal_the_raw_file_in_microvolts(ptbxl: Path) -> None:
    source = reader(ptbxl)
    block = take_rows(read_whole(source), slice(3))
    raw_TL = np.fromfile(ptbxl / "records100/00000/00002_lr.dat", "<i2").reshape(1000, 12)
    np.testing.assert_allclose(block.ecg_NLT[1], raw_TL.T / 1000, rtol=1e-6)
    assert block.record_ids.tolist() == ["1", "2", "3"]
    assert block.patient_ids[0] == "15709"
    assert block.folds[:2].tolist() == [3, 2]
    assert (block.meta["age"][0], block.meta["sex"][0]) == (56, 1)


def test_leads_obey_einthoven_and_goldberger(ptbxl: Path) -> None:
    ecg_NLT = read_whole(reader(ptbxl)).ecg_NLT
    lead = dict(zip(reader(ptbxl).header.lead_names, np.moveaxis(ecg_NLT, 1, 0), strict=True))
    np.testing.assert_allclose(lead["I"] + lead["III"], lead["II"], atol=0.0021)
    np.testing.assert_allclose(lead["aVR"], -(lead["I"] + lead["II"]) / 2, atol=0.0021)


def test_500_hz_records_have_5000_timesteps(ptbxl: Path) -> None:
    source = reader(ptbxl, fs_hz=500, skip_missing=True)
    assert source.header.n_timesteps == 5000
    assert "460 records of the database are left out" in source.header.notes[1]
    assert read_whole(source).ecg_NLT.shape == (40, 12, 5000)


def test_superclasses_of_the_first_500_records_are_counted_as_published_with_them(ptbxl: Path) -> None:
    source = reader(ptbxl)
    names = source.header.label_sets["diag_superclass"].names
    labels_NK = read_whole(source).labels["diag_superclass"]
    counts = dict(zip(names, labels_NK.sum(axis=0).astype(int).tolist(), strict=True))
    assert counts == {"NORM": 297, "STTC": 96, "CD": 78, "MI": 73, "HYP": 40}
    assert (labels_NK.sum(axis=1) == 0).sum() == 12


def test_records_of_one_superclass_alone_have_it_as_their_class(ptbxl: Path) -> None:
    source = reader(ptbxl)
    assert source.header.label_sets["superclass"].task == "multiclass"
    labels = read_whole(source).labels
    labels_NK, class_N = labels["diag_superclass"], labels["superclass"][:, 0]
    assert (~np.isnan(class_N)).sum() == (labels_NK.sum(axis=1) == 1).sum() == 415
    assert all(labels_NK[row, int(class_N[row])] == 1 for row in np.flatnonzero(~np.isnan(class_N)))


def test_sex_and_age_can_be_learned(ptbxl: Path) -> None:
    block, database = read_whole(reader(ptbxl)), pd.read_csv(ptbxl / "ptbxl_database.csv")
    np.testing.assert_array_equal(block.labels["sex"][:, 0], database.sex)
    np.testing.assert_array_equal(block.labels["age"][:, 0], database.age.replace(300, 90))
    sets = reader(ptbxl).header.label_sets
    assert (sets["sex"].task, sets["sex"].names) == ("binary", ("female",))
    assert (sets["age"].task, sets["age"].units) == ("regression", ("years",))


def test_statements_give_the_benchmarks_71_44_23_5_19_12_labels(ptbxl: Path) -> None:
    mappings = statement_mappings(pd.read_csv(ptbxl / "scp_statements.csv", index_col=0))
    n_labels = {name: len(set(mapping.values())) for name, mapping in mappings.items()}
    assert n_labels == {
        "all": 71, "diag": 44, "diag_subclass": 23, "diag_superclass": 5, "form": 19, "rhythm": 12
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("diagnostic", "diag"),
        ("subdiagnostic", "diag_subclass"),
        ("superdiagnostic", "diag_superclass"),
        ("all", "all"),
    ],
)
def test_label_sets_go_by_the_benchmarks_names_too(store: Path, spelling: str, name: str) -> None:
    described = describe(DataConfig(store=str(store), labels=spelling))
    assert described == describe(DataConfig(store=str(store), labels=name))
    assert described.label_set.name == name


def test_a_mistyped_task_of_the_benchmark_is_refused_with_the_nearest(store: Path) -> None:
    with pytest.raises(ValueError, match="no label set 'superdiagnostics'; did you mean 'superdiagnostic'"):
        describe(DataConfig(store=str(store), labels="superdiagnostics"))


def test_folds_are_the_official_ones_and_share_no_patient(ptbxl: Path, store: Path) -> None:
    manifest = read_manifest(store)
    assert manifest.folds == {"train": (1, 2, 3, 4, 5, 6, 7, 8), "val": (9,), "test": (10,)}
    tables = [read_table(store, shard) for shard in manifest.shards]
    folds = pd.Series(np.concatenate([table.folds for table in tables]))
    record_ids = np.concatenate([table.record_ids for table in tables])
    official = pd.read_csv(ptbxl / "ptbxl_database.csv").set_index("ecg_id").strat_fold
    assert folds.tolist() == official[record_ids.astype(int)].tolist()
    assert folds.groupby(np.concatenate([table.patient_ids for table in tables])).nunique().max() == 1


def test_missing_records_are_refused_unless_skipping_is_asked(copied: Path) -> None:
    (copied / "records100/00000/00003_lr.dat").unlink()
    with pytest.raises(ValueError, match=r"1 of 12 records are not on disk, the first is .*00003_lr.*--skip-missing"):
        reader(copied)
    source = reader(copied, skip_missing=True)
    assert "3" not in read_whole(source).record_ids
    with pytest.raises(ValueError, match="none of its 12 records is on disk at 500 Hz"):
        reader(copied, fs_hz=500, skip_missing=True)


def test_a_truncated_record_is_quarantined_and_a_short_one_padded(copied: Path) -> None:
    path = copied / "records100/00000/00003_lr.dat"
    path.write_bytes(path.read_bytes()[:1000])
    path = copied / "records100/00000/00002_lr.hea"
    path.write_text(path.read_text().replace("12 100 1000", "12 100 990", 1))
    block = read_whole(reader(copied))
    assert [(each.record_id, each.reason[:31]) for each in block.quarantined] == [
        ("3", "can't be read as a WFDB record ")
    ]
    assert block.record_ids[:3].tolist() == ["1", "2", "4"]
    assert block.length_N[:3].tolist() == [1000, 990, 1000]
    assert not block.ecg_NLT[1, :, 990:].any()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scp_codes", "NORM", "ecg_id 1: scp_codes must be a dict"),
        ("scp_codes", "{'NOPE': 100.0}", "ecg_id 1: statement 'NOPE' is not in scp_statements.csv"),
        ("strat_fold", None, "no column 'strat_fold'"),
    ],
)
def test_a_malformed_table_is_refused(copied: Path, column: str, value: str | None, message: str) -> None:
    table = pd.read_csv(copied / "ptbxl_database.csv")
    if value is None:
        table = table.drop(columns=column)
    else:
        table.loc[0, column] = value
    table.to_csv(copied / "ptbxl_database.csv", index=False)
    with pytest.raises(ValueError, match=message):
        reader(copied)


def test_ages_masked_as_300_become_90(copied: Path) -> None:
    table = pd.read_csv(copied / "ptbxl_database.csv")
    table.loc[0, "age"] = 300
    table.to_csv(copied / "ptbxl_database.csv", index=False)
    assert read_whole(reader(copied)).meta["age"][:2].tolist() == [90, 19]


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ptbxl_database.csv can't be read"):
        reader(tmp_path)
