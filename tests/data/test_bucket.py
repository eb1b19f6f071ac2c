"""A folder of copies stands for a bucket; every test has an S3 server, and as many nodes as it makes copies."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from data.bucket import COPIES, fetch, folders, path_of, read, remove, send, sizes, uri_of

Node = Callable[[str], Path]


@pytest.fixture
def node(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return what makes this process a node of that name, and returns its copy of `s3://BUCKET/lab`."""

    def become(name: str) -> Path:
        monkeypatch.setenv(COPIES, str(tmp_path / name))
        return path_of(f"s3://{bucket}/lab")

    return become


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_copys_path_has_a_uri_and_another_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COPIES, str(tmp_path))
    assert path_of("s3://ecg/lab/runs") == tmp_path / "ecg-sweep/ecg/lab/runs"
    assert uri_of(tmp_path / "ecg-sweep/ecg/lab/runs") == "s3://ecg/lab/runs"
    assert uri_of(Path("runs")) == uri_of(Path("/mnt/ecg")) == ""


def test_a_path_that_is_shared_stays_as_it_is(tmp_path: Path) -> None:
    file = write(tmp_path / "a/b.txt", "1")
    fetch(tmp_path)
    send(tmp_path)
    assert file.read_text() == "1"
    assert (folders(tmp_path), sizes(tmp_path)) == (["a"], {file: 1})
    remove(tmp_path / "a")
    assert (folders(tmp_path), folders(tmp_path / "none"), sizes(tmp_path)) == ([], [], {})


def test_what_one_node_sends_another_fetches(node: Node) -> None:
    here = node("first")
    write(here / "runs/a.txt", "1")
    write(here / "runs/deep/b.txt", "22")
    send(here / "runs")
    there = node("second")
    assert (folders(there / "runs"), {path.name: size for path, size in sizes(there).items()}) == (
        ["deep"],
        {"a.txt": 1, "b.txt": 2},
    )
    assert read(there / "runs/a.txt") == b"1"
    assert list(there.rglob("*")) == [], "looking fetches nothing"
    fetch(there / "runs/deep")
    assert [path.name for path in there.rglob("*.txt")] == ["b.txt"]
    fetch(there)
    assert (there / "runs/a.txt").read_text() == "1"


def test_fetching_replaces_what_is_older_and_removes_what_the_bucket_lacks(node: Node) -> None:
    here = node("first")
    file = write(here / "a.txt", "old")
    send(here)
    there = node("second")
    fetch(there)
    write(there / "extra.txt", "x")
    node("first")
    write(file, "newer")
    send(file)
    node("second")
    fetch(there)
    assert {path.name: path.read_text() for path in there.iterdir()} == {"a.txt": "newer"}
    remove(there / "a.txt")
    node("first")
    fetch(file)
    assert not file.exists()


def test_what_has_travelled_does_not_travel_again(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(node("first") / "a.txt", "1")
    send(file)
    there = node("second")
    fetch(there)
    copied = there / "a.txt"
    inode = copied.stat().st_ino
    fetch(there)
    assert copied.stat().st_ino == inode, "a download makes another file"
    monkeypatch.setattr("data.bucket._upload", lambda path: pytest.fail(f"{path} was sent again"))
    send(there)
    node("first")
    send(file)


def test_a_file_of_the_same_size_is_sent_again_once_it_is_written_again(node: Node) -> None:
    file = write(node("first") / "a.txt", "1")
    send(file)
    write(file, "2")
    send(file)
    assert read(file) == b"2"


def test_nothing_half_written_stays_of_a_download_that_fails(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    send(write(node("first") / "a.txt", "1"))
    there = node("second")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        fetch(there)
    assert list(there.iterdir()) == []


def test_a_bucket_that_is_not_there_is_named(node: Node) -> None:
    node("first")
    file = write(path_of("s3://none-of-that-name/lab") / "a.txt", "1")
    for use in (send, fetch, remove, read, folders, sizes):
        with pytest.raises(OSError, match="there is no bucket 'none-of-that-name'; make it, or name another one"):
            use(file)
    assert file.exists()


def test_what_begins_with_a_dot_is_of_one_process(node: Node) -> None:
    here = node("first")
    hidden = [write(here / ".a.txt.17.tmp", "1"), write(here / ".tune/b.txt", "1")]
    send(here)
    fetch(here)
    assert sizes(here) == {}
    assert all(path.exists() for path in hidden), "another process may be writing them"


def test_what_vanishes_while_it_is_sent_is_left_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    here = node("first")
    file = write(here / "a.txt", "1")
    monkeypatch.setattr("data.bucket._files", lambda path: {file: (1, 1), here / "gone.txt": (1, 1)})
    send(here)
    assert [path.name for path in sizes(here)] == ["a.txt"]
