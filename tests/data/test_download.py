"""Downloads, from a server of the test's own: resumed, verified, and refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import READERS, download
from data.download import (
    ELSEWHERE,
    SOURCES,
    RemoteFile,
    Source,
    fetch_source,
    list_figshare,
    list_physionet,
    list_zenodo,
)

BIG = bytes(range(256)) * 4096  # 1 MiB


@dataclass
class Publisher:
    """A server: what it has, how it fails, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut_after: dict[str, int] = field(default_factory=dict)  # path -> bytes, at the next request only
    spoilt_once: set[str] = field(default_factory=set)
    busy: list[str] = field(default_factory=list)  # answered with 503, once each
    ranges: bool = True
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""

    def listed(self, path: str, digest: str | None = None) -> RemoteFile:
        return RemoteFile(path, f"{self.url}/{path}", "sha256", digest or sha256(self.files[path]))

    def source(self, *paths: str, unpacks: bool = False) -> Source:
        files = [self.listed(path) for path in paths or self.files]
        return Source("the set", "https://example.org/set", lambda session: files, unpacks=unpacks)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, asked = request.path.lstrip("/"), request.headers.get("Range")
        self.requests.append((path, asked))
        if path in self.busy:
            self.busy.remove(path)
            empty(request, 503)
        elif path not in self.files:
            empty(request, 404)
        else:
            self.send(request, path, asked)

    def send(self, request: BaseHTTPRequestHandler, path: str, asked: str | None) -> None:
        content = self.files[path]
        if path in self.spoilt_once:
            self.spoilt_once.remove(path)
            content = b"\0" * len(content)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if first and first >= len(content):
            empty(request, 416)
            return
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(content) - first))
        if first:
            request.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        request.end_headers()
        cut = self.cut_after.pop(path, None)
        request.wfile.write(content[first:] if cut is None else content[first : first + cut])
        request.close_connection = cut is not None


def empty(request: BaseHTTPRequestHandler, status: int) -> None:
    request.send_response(status)
    request.send_header("Content-Length", "0")
    request.end_headers()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    published = Publisher()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            published.answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            pass

    monkeypatch.setattr(download, "CUT_PAUSE_S", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        published.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield published
        server.shutdown()


# --- fetching


def test_all_files_arrive_in_their_folders_and_are_counted(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {f"records/{n // 5}/{n}.dat": bytes([n]) * n for n in range(20)}
    reports: list[tuple[int, int, int]] = []
    fetch_source(publisher.source(), tmp_path, lambda *report: reports.append(report))
    for path, content in publisher.files.items():
        assert (tmp_path / path).read_bytes() == content
    assert [(done, total) for done, total, _ in reports] == [(n, 20) for n in range(1, 21)]
    assert reports[-1][2] == sum(range(20))
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_there_and_right_is_not_fetched_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {"a": b"one", "b": b"two"}
    fetch_source(publisher.source(), tmp_path)
    (tmp_path / "b").write_bytes(b"spoilt")
    publisher.requests.clear()
    fetch_source(publisher.source(), tmp_path)
    assert publisher.requests == [("b", None)]
    assert (tmp_path / "b").read_bytes() == b"two"


def test_a_file_that_is_cut_goes_on_where_it_was(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files, publisher.cut_after = {"big": BIG}, {"big": 300_000}
    fetch_source(publisher.source(), tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert publisher.requests == [("big", None), ("big", f"bytes={4 * download.BLOCK_BYTES}-")]


def test_the_part_that_an_earlier_call_left_is_gone_on_from(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {"big": BIG, "whole": b"done"}
    (tmp_path / "big.part").write_bytes(BIG[:1000])
    (tmp_path / "whole.part").write_bytes(b"done")
    fetch_source(publisher.source(), tmp_path)
    assert sorted(publisher.requests) == [("big", "bytes=1000-"), ("whole", "bytes=4-")]
    assert (tmp_path / "big").read_bytes() == BIG
    assert (tmp_path / "whole").read_bytes() == b"done"


def test_a_server_without_ranges_gives_the_file_from_its_beginning(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files, publisher.ranges = {"big": BIG}, False
    (tmp_path / "big.part").write_bytes(BIG[:1000])
    fetch_source(publisher.source(), tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG


def test_a_wrong_checksum_is_fetched_once_more(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files, publisher.spoilt_once = {"a": b"right"}, {"a"}
    fetch_source(publisher.source(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"right"
    assert len(publisher.requests) == 2


def test_a_checksum_that_stays_wrong_is_refused_and_leaves_nothing(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {"a": b"wrong"}
    files = [publisher.listed("a", digest=sha256(b"right"))]
    with pytest.raises(ValueError, match=r"/a has not the sha256 that its publisher lists, nor on a second try"):
        fetch_source(Source("the set", "", lambda session: files), tmp_path)
    assert len(publisher.requests) == 2
    assert not list(tmp_path.iterdir())


def test_a_busy_server_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files, publisher.busy = {"a": b"one"}, ["a"]
    fetch_source(publisher.source(), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"one"


def test_a_listed_file_that_is_not_there_is_named_and_the_others_stay_for_the_next_call(
    publisher: Publisher, tmp_path: Path
) -> None:
    publisher.files = {"a": b"one", "gone": b""}
    source = publisher.source()
    del publisher.files["gone"]
    with pytest.raises(ValueError, match=r"/gone can't be fetched: HTTP 404"):
        fetch_source(source, tmp_path)
    assert not (tmp_path / "gone").exists()


def test_a_publisher_that_is_lost_half_way_is_named(publisher: Publisher, tmp_path: Path) -> None:
    file = RemoteFile("a", "http://127.0.0.1:9/a", "sha256", "0" * 64)  # the discard port: nobody listens
    with pytest.raises(ValueError, match=r"^127.0.0.1 can't be reached \(no connection\); the same command goes on"):
        fetch_source(Source("the set", "", lambda session: [file]), tmp_path)


@pytest.mark.parametrize("path", ["../a", "/a", "x/../../a"])
def test_a_listing_can_not_write_outside_of_the_folder(publisher: Publisher, tmp_path: Path, path: str) -> None:
    file = RemoteFile(path, f"{publisher.url}/a", "sha256", "0" * 64)
    with pytest.raises(ValueError, match="outside of"):
        fetch_source(Source("the set", "", lambda session: [file]), tmp_path)
    assert publisher.requests == []


# --- archives


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_are_unpacked_once_where_the_reader_needs_it(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {"part0.zip": zipped(a=b"one"), "records.tar.gz": tarred("b/c.h5", b"two"), "exams.csv": b"x"}
    fetch_source(publisher.source(unpacks=True), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b/c.h5").read_bytes() == b"two"
    (tmp_path / "a").write_bytes(b"mine")
    fetch_source(publisher.source(unpacks=True), tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_tar_archive_can_not_write_outside_of_the_folder(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files = {"records.tar": tarred("../escaped", b"two")}
    with pytest.raises(ValueError, match=r"records.tar can't be unpacked"):
        fetch_source(publisher.source(unpacks=True), tmp_path / "set")
    assert not (tmp_path / "escaped").exists()


# --- publishers


def test_physionets_checksums_are_its_list_and_patterns_choose_from_it(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"training/g1/E1.hea": b"one", "training/g1/E1.mat": b"two", "sources/team.zip": b"three"}
    sums = "\n".join(f"{sha256(data)} {path}" for path, data in content.items())
    publisher.files = {f"set/1.0/{path}": data for path, data in content.items()}
    publisher.files["set/1.0/SHA256SUMS.txt"] = f"{sums}\n".encode()
    monkeypatch.setattr(download, "PHYSIONET", publisher.url)
    fetch_source(Source("the set", "", partial(list_physionet, "set", "1.0"), ("training/*",)), tmp_path)
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {path: data for path, data in content.items() if path.startswith("training")}


def test_zenodos_record_lists_its_files(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.md5(b"id,age").hexdigest()
    links = {"self": f"{publisher.url}/77/files/exams.csv/content"}
    record = {"id": 77, "files": [{"key": "exams.csv", "size": 6, "checksum": f"md5:{digest}", "links": links}]}
    publisher.files = {"77": json.dumps(record).encode(), "77/files/exams.csv/content": b"id,age"}
    monkeypatch.setattr(download, "ZENODO", publisher.url)
    fetch_source(Source("the set", "", partial(list_zenodo, 77)), tmp_path)
    assert (tmp_path / "exams.csv").read_bytes() == b"id,age"


def test_figshares_collection_lists_the_files_of_its_articles(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.md5(b"id,age").hexdigest()
    file = {"name": "metadata.csv", "computed_md5": digest, "download_url": f"{publisher.url}/files/1"}
    publisher.files = {
        "collections/5/articles?page_size=100": json.dumps([{"id": 8}]).encode(),
        "articles/8": json.dumps({"files": [file]}).encode(),
        "files/1": b"id,age",
    }
    monkeypatch.setattr(download, "FIGSHARE", publisher.url)
    fetch_source(Source("the set", "", partial(list_figshare, 5)), tmp_path)
    assert (tmp_path / "metadata.csv").read_bytes() == b"id,age"


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b'{"message": "moved"}'])
def test_a_list_that_is_none_is_refused(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    publisher.files = {"77": answer, "set/1.0/SHA256SUMS.txt": answer}
    monkeypatch.setattr(download, "ZENODO", publisher.url)
    monkeypatch.setattr(download, "PHYSIONET", publisher.url)
    for listing in (partial(list_zenodo, 77), partial(list_physionet, "set", "1.0")):
        with pytest.raises(ValueError, match=r"the set is not listed as before .*; see https://example.org"):
            fetch_source(Source("the set", "https://example.org", listing), tmp_path)


# --- the table


def test_without_network_it_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PHYSIONET", "http://127.0.0.1:9")
    begin_s = time.monotonic()
    with pytest.raises(ValueError, match=r"^127.0.0.1 can't be reached .*; download PTB-XL 1.0.3 from https://phys"):
        download.download("ptbxl", tmp_path / "set")
    assert time.monotonic() - begin_s < download.CONNECT_S
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_a_kind_without_a_public_download_says_where_to_get_it(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{kind} has no public download: ") as caught:
        download.download(kind, tmp_path)
    assert "\n" not in str(caught.value)


def test_every_kind_is_in_one_of_the_two_tables() -> None:
    assert not SOURCES.keys() & ELSEWHERE.keys()
    assert READERS.keys() <= SOURCES.keys() | ELSEWHERE.keys()
    assert SOURCES.keys() == {"challenge2021", "ptbxl", "challenge2017", "mitdb", "code15", "sph"}
