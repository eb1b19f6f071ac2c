"""Ingestion: the same store with and without Ray, and nothing on disk where the input is bad."""

from pathlib import Path

import numpy as np
import pytest

from data.ingest import ingest, ingest_serially
from data.store import read_manifest, read_shard
from tests.data.toy_reader import LABEL_SETS, ToyReader, toy_ecg


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_record_is_stored_once_and_in_order(tmp_path: Path) -> None:
    manifest = ingest_serially(ToyReader(), tmp_path / "s", n_records_per_shard=10)
    assert [shard.n_records for shard in manifest.shards] == [10, 6, 10, 6, 10, 6, 10, 2]
    blocks = [read_shard(tmp_path / "s", shard) for shard in manifest.shards]
    np.testing.assert_array_equal(
        np.concatenate([block.ecg_NLT for block in blocks]), [toy_ecg(record, 50) for record in range(60)]
    )


def test_counts_are_those_of_the_records(tmp_path: Path) -> None:
    counts = ingest_serially(ToyReader(), tmp_path / "s").counts
    block = ToyReader().read(range(60))
    assert counts.records == dict.fromkeys(range(1, 11), 6)
    for fold in range(1, 11):
        mask = block.folds == fold
        assert counts.labels["rhythm"][fold] == tuple(block.labels["rhythm"][mask].sum(axis=0))
        assert counts.labels["kind"][fold] == tuple((block.labels["kind"][mask] == k).sum() for k in range(3))
        assert counts.labels["rr"][fold] == (np.isfinite(block.labels["rr"][mask]).sum(),)
        assert counts.labelled["rhythm"][fold] == (block.labels["rhythm"][mask].sum(axis=1) > 0).sum()
        assert counts.labelled["rr"][fold] == counts.labels["rr"][fold][0]
        assert counts.labelled["sex"][fold] == 6
    assert counts.labels.keys() == LABEL_SETS.keys()


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    first = ingest_serially(ToyReader(), tmp_path / "a")
    assert ingest_serially(ToyReader(), tmp_path / "b").fingerprint == first.fingerprint
    assert ingest_serially(ToyReader(n_records=58), tmp_path / "c").fingerprint != first.fingerprint
    assert ingest_serially(ToyReader(), tmp_path / "d", dtype="float16").fingerprint != first.fingerprint


def test_progress_reaches_the_whole(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    ingest_serially(ToyReader(), tmp_path / "s", progress=lambda *state: seen.append(state))
    assert seen == [(1, 4, 16), (2, 4, 32), (3, 4, 48), (4, 4, 60)]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (ToyReader(bad_record=40), "record r040-é has a value that is not finite"),
        (ToyReader(patients_cross_folds=True), "patient p0 is in folds 1 and 2"),
        (ToyReader(same_ids=True), "record id r000-é occurs twice"),
    ],
)
def test_bad_records_leave_nothing_on_disk(tmp_path: Path, reader: ToyReader, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ingest_serially(reader, tmp_path / "deep" / "store")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_with_content_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="exists and is not empty; nothing is overwritten"):
        ingest_serially(ToyReader(), tmp_path)
    with pytest.raises(ValueError, match="is a file; a store is a folder"):
        ingest_serially(ToyReader(), tmp_path / "mine.txt")
    assert contents(tmp_path) == {"mine.txt": b"precious"}


def test_an_empty_folder_may_become_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    ingest_serially(ToyReader(), tmp_path / "store")
    assert read_manifest(tmp_path / "store").counts.n_records == 60


@pytest.mark.parametrize("n_done", [1, 3, 4])
def test_an_interrupted_ingestion_is_no_store_and_goes_on_where_it_was(tmp_path: Path, n_done: int) -> None:
    def interrupt(done: int, *_: int) -> None:
        if done == n_done:
            raise KeyboardInterrupt

    ingest_serially(ToyReader(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ingest_serially(ToyReader(), tmp_path / "store", progress=interrupt)
    with pytest.raises(ValueError, match="is no store"):
        read_manifest(tmp_path / "store")
    seen: list[tuple[int, int, int]] = []
    ingest_serially(ToyReader(), tmp_path / "store", progress=lambda *state: seen.append(state))
    assert [done for done, _, _ in seen] == list(range(n_done + 1, 5))
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "whole"]


def test_what_is_left_of_another_ingestion_is_not_taken(tmp_path: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest_serially(ToyReader(), tmp_path / "store", progress=interrupt)
    ingest_serially(ToyReader(n_records=58), tmp_path / "store")
    ingest_serially(ToyReader(n_records=58), tmp_path / "whole")
    assert contents(tmp_path / "store") == contents(tmp_path / "whole")


def test_two_processes_do_not_write_one_store(tmp_path: Path) -> None:
    def start_another(*_: int) -> None:
        with pytest.raises(ValueError, match="another process is writing"):
            ingest_serially(ToyReader(), tmp_path / "store")

    ingest_serially(ToyReader(), tmp_path / "store", progress=start_another)
    assert read_manifest(tmp_path / "store").counts.n_records == 60


def test_quarantined_records_are_listed_with_their_reason(tmp_path: Path) -> None:
    manifest = ingest_serially(ToyReader(unreadable=(3, 20)), tmp_path / "store")
    assert (manifest.counts.n_records, manifest.counts.n_quarantined) == (58, 2)
    assert (tmp_path / "store" / "quarantine.csv").read_text(encoding="utf-8").splitlines() == [
        "record_id,reason", "r003-é,the file is torn", "r020-é,the file is torn"
    ]  # fmt: skip
    assert "2 records are left out; quarantine.csv says why" in manifest.notes
    with pytest.raises(ValueError, match="none of its 60 records can be taken in: the first is r000-é"):
        ingest_serially(ToyReader(unreadable=tuple(range(60))), tmp_path / "none")


def test_equal_signals_are_reported_and_those_across_folds_counted(tmp_path: Path) -> None:
    manifest = ingest_serially(ToyReader(copies={1: 0, 9: 0, 31: 30}), tmp_path / "store")
    note = "5 records have exactly the signal of another (2 groups, 1 of them across folds); duplicates.csv names them"
    assert note in manifest.notes
    assert (tmp_path / "store" / "duplicates.csv").read_text(encoding="utf-8").splitlines() == [
        "group,record_id,fold", "1,r000-é,1", "1,r001-é,1", "1,r009-é,5", "2,r030-é,6", "2,r031-é,6"
    ]  # fmt: skip


@pytest.mark.usefixtures("ray_cluster")
def test_ray_data_writes_the_same_store_byte_for_byte(tmp_path: Path) -> None:
    ingest_serially(ToyReader(), tmp_path / "serial")
    ingest(ToyReader(), tmp_path / "parallel")
    assert contents(tmp_path / "serial") == contents(tmp_path / "parallel")


@pytest.mark.usefixtures("ray_cluster")
def test_a_bad_record_in_a_task_is_one_plain_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record r040-é has a value that is not finite") as caught:
        ingest(ToyReader(bad_record=40), tmp_path / "store")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
