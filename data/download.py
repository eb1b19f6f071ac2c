"""Fetching whole data sets from their publishers: resumable, and every file held against the publisher's checksum.

PhysioNet lists all files of a version with their sha256 (`SHA256SUMS.txt`), Zenodo's and figshare's interfaces with
their md5. `wfdb.io.dl_database` is not used for PhysioNet: it asks for the newest version instead of the one that is
meant, needs a request a record before the first file, and knows no checksums: it takes a file of the right size for
whole, and appends to a shorter one, whatever is in it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

PHYSIONET = "https://physionet.org/files"
ZENODO = "https://zenodo.org/api/records"
FIGSHARE = "https://api.figshare.com/v2"

N_THREADS = 4  # of PhysioNet's files, most are small: one at a time waits for the network; more burden the publisher
CONNECT_S, READ_S = 5.0, 60.0
N_CUTS, CUT_PAUSE_S = 5, 1.0  # lost connections in a row without a new byte, and the pause after the first
BLOCK_BYTES = 64 * 1024  # the most that a cut loses
PART_SUFFIX = ".part"
_SUM = re.compile(r"^([0-9a-f]{64}) +\*?(.+?)\r?$", re.MULTILINE)

Progress = Callable[[int, int, int], None]
"""Called with (files done, files in all, bytes of the files done)."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set, and what its content must hash to."""

    path: str  # in the data set's folder
    url: str
    algorithm: Literal["sha256", "md5"]
    digest: str


Listing = Callable[[requests.Session], Sequence[RemoteFile]]


@dataclass(frozen=True)
class Source:
    """Where a data set is published.

    Attributes:
        page: for people, where a download by hand begins.
        list_files: asks the publisher for the files of the one version.
        patterns: which files are taken; `*` stands for folders too.
        unpacks: whether archives are unpacked beside themselves, since the reader needs what is in them.
    """

    name: str
    page: str
    list_files: Listing
    patterns: tuple[str, ...] = ("*",)
    unpacks: bool = False


def download(kind: str, folder: Path, progress: Progress | None = None) -> None:
    """Fetch a kind's whole data set into `folder`: afterwards it is a source for the kind's reader.

    Files that are there with the right checksum stay; others are fetched, the rest of a file that was cut included.
    The same call goes on after an interruption.

    Raises:
        ValueError: the kind has no public download (says where to get it), its publisher can't be reached, or a file
            is not what its checksum says.
    """
    if kind not in SOURCES:
        raise ValueError(f"{kind} has no public download: {ELSEWHERE[kind]}")
    fetch_source(SOURCES[kind], folder, progress)


def fetch_source(source: Source, folder: Path, progress: Progress | None = None) -> None:
    """Do what `download` does, for any source."""
    with _session() as session:
        try:
            listed = source.list_files(session)
        except (requests.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{source.name} is not listed as before ({error!r}); see {source.page}") from None
        except requests.RequestException as error:
            raise ValueError(f"{_unreachable(error)}; download {source.name} from {source.page} elsewhere") from None
        files = [file for file in listed if any(fnmatchcase(file.path, pattern) for pattern in source.patterns)]
        if not files:
            raise ValueError(f"{source.name} is not listed as before (no files); see {source.page}")
        _fetch_all(session, files, folder, progress)
    if source.unpacks:
        for file in files:
            unpack(folder / file.path)


# ---------------------------------------------------------------------- what there is


def list_physionet(slug: str, version: str, session: requests.Session) -> list[RemoteFile]:
    """List the files of one version of a PhysioNet project."""
    root = f"{PHYSIONET}/{slug}/{version}"
    sums = _get(session, f"{root}/SHA256SUMS.txt").text
    return [RemoteFile(path, f"{root}/{path}", "sha256", digest) for digest, path in _SUM.findall(sums)]


def list_zenodo(record: int, session: requests.Session) -> list[RemoteFile]:
    """List the files of a Zenodo record."""
    files = _get(session, f"{ZENODO}/{record}").json()["files"]
    return [
        RemoteFile(each["key"], each["links"]["self"], "md5", each["checksum"].removeprefix("md5:")) for each in files
    ]


def list_figshare(collection: int, session: requests.Session) -> list[RemoteFile]:
    """List the files of all articles of a figshare collection."""
    articles = _get(session, f"{FIGSHARE}/collections/{collection}/articles?page_size=100").json()
    return [
        RemoteFile(each["name"], each["download_url"], "md5", each["computed_md5"])
        for article in articles
        for each in _get(session, f"{FIGSHARE}/articles/{article['id']}").json()["files"]
    ]


def _physionet(name: str, slug: str, version: str, *patterns: str, unpacks: bool = False) -> Source:
    page = f"https://physionet.org/content/{slug}/{version}/"
    return Source(name, page, partial(list_physionet, slug, version), patterns or ("*",), unpacks)


SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "challenge2021": _physionet("PhysioNet Challenge 2021 1.0.3", "challenge-2021", "1.0.3", "training/*", "*.csv"),
        "ptbxl": _physionet("PTB-XL 1.0.3", "ptb-xl", "1.0.3"),
        "challenge2017": _physionet(
            "PhysioNet Challenge 2017 1.0.0",
            "challenge-2017",
            "1.0.0",
            "training2017.zip",
            "REFERENCE*.csv",
            unpacks=True,
        ),
        "mitdb": _physionet("the MIT-BIH Arrhythmia Database 1.0.0", "mitdb", "1.0.0"),
        "code15": Source(
            "CODE-15 %", "https://zenodo.org/records/4916206", partial(list_zenodo, 4916206), unpacks=True
        ),
        "sph": Source(
            "SPH", "https://doi.org/10.6084/m9.figshare.c.5779802", partial(list_figshare, 5779802), unpacks=True
        ),
    }
)

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "mimic_iv_ecg": "PhysioNet gives it to who has signed its terms, https://physionet.org/content/mimic-iv-ecg/; "
        "SOURCE is EnECG's JSONL, --root the folder with files/",
        "hefei": "Tianchi gives it to who registers, https://tianchi.aliyun.com/competition/entrance/231754; SOURCE is "
        "the folder with both rounds' or one round's files",
        "iesd": "the IESD contest gave it to its participants; SOURCE is its folder or zip of text files",
        "code_hdf5": "the whole CODE data set is given on request, https://doi.org/10.17044/scilifelab.15169716; "
        "--export writes this layout from a store",
        "hubert_csv": "its CSVs come with HuBERT-ECG, https://github.com/Edoar-do/HuBERT-ECG, for recordings that are "
        "downloaded by their own kinds",
        "joined": "it is made of stores that are there",
        "numpy_dir": "it is a layout for recordings of your own",
        "segments_csv": "it is a table made of other data sets; SOURCE is its file",
        "synthetic": "it is made here, and needs no recordings",
    }
)
"""What to do about the kinds without a public download."""


# ---------------------------------------------------------------------- fetching


def _fetch_all(session: requests.Session, files: Sequence[RemoteFile], folder: Path, progress: Progress | None) -> None:
    fetcher = _Fetcher(session, folder)
    n_bytes = 0
    with ThreadPoolExecutor(N_THREADS, thread_name_prefix="download") as pool:
        try:
            futures = [pool.submit(fetcher.fetch, file) for file in files]
            for n_done, future in enumerate(as_completed(futures), start=1):
                n_bytes += future.result()
                if progress is not None:
                    progress(n_done, len(files), n_bytes)
        finally:
            fetcher.stopped.set()
            pool.shutdown(cancel_futures=True)


class _Fetcher:
    """Fetches files into a folder, in any thread, until it is stopped."""

    def __init__(self, session: requests.Session, folder: Path) -> None:
        self._session, self._folder = session, folder
        self.stopped = threading.Event()

    def fetch(self, file: RemoteFile) -> int:
        """Fetch a file unless it is there, and return its size in bytes.

        Raises:
            ValueError: it is not what its checksum says, twice, or the publisher can't be reached any more.
        """
        path = _place(self._folder, file)
        if path.is_file() and digest_of(path, file.algorithm) == file.digest:
            return _size(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + PART_SUFFIX)
        for _ in range(2):  # what an earlier call left may be spoilt
            self._complete(file, part)
            if self.stopped.is_set():
                return 0
            if digest_of(part, file.algorithm) == file.digest:
                os.replace(part, path)
                return _size(path)
            part.unlink()
        raise ValueError(f"{file.url} has not the {file.algorithm} that its publisher lists, nor on a second try")

    def _complete(self, file: RemoteFile, part: Path) -> None:
        """Fetch what `part` lacks, over several connections where some are cut."""
        n_cuts = 0
        while not self.stopped.is_set():
            before = _size(part)
            try:
                self._append(file, part)
                return
            except requests.HTTPError as error:
                raise ValueError(f"{file.url} can't be fetched: {_reason(error)}") from None
            except requests.RequestException as error:
                n_cuts = 0 if _size(part) > before else n_cuts + 1
                if n_cuts == N_CUTS:
                    raise ValueError(f"{_unreachable(error)}; the same command goes on from here") from None
                self.stopped.wait(n_cuts * CUT_PAUSE_S)

    def _append(self, file: RemoteFile, part: Path) -> None:
        offset = _size(part)
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._session.get(file.url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # nothing is behind it: the checksum tells whether it is whole
            response.raise_for_status()
            goes_on = response.status_code == requests.codes.partial_content
            with part.open("ab" if goes_on else "wb") as opened:
                for block in response.iter_content(BLOCK_BYTES):
                    opened.write(block)
                    if self.stopped.is_set():
                        return


def digest_of(path: Path, algorithm: str) -> str:
    """Return the hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def unpack(archive: Path) -> None:
    """Unpack a zip or tar archive beside itself, once; other files are left alone.

    Raises:
        ValueError: it is damaged, or has members that would lie outside of its folder.
    """
    done = archive.with_name(f".{archive.name}.unpacked")
    if done.exists():
        return
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(archive.parent)  # noqa: S202  (of zip archives it keeps members inside)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tarred:
                tarred.extractall(archive.parent, filter="data")
        else:
            return
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(f"{archive} can't be unpacked ({error}); remove it, and download it anew") from error
    done.touch()


@contextmanager
def _session() -> Iterator[requests.Session]:
    """Yield connections that all threads share. A server that is busy is asked again; one that is not there is not."""
    retry = Retry(total=5, connect=0, read=0, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504))
    adapter = HTTPAdapter(pool_maxsize=N_THREADS, max_retries=retry)
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # ranges and checksums are of the files themselves
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        yield session


def _get(session: requests.Session, url: str) -> requests.Response:
    response = session.get(url, timeout=(CONNECT_S, READ_S))
    response.raise_for_status()
    return response


def _place(folder: Path, file: RemoteFile) -> Path:
    """Return where a file goes; a listing does not get to write elsewhere."""
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{file.url} asks to be written to {file.path}, outside of {folder}")
    return folder / path


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(error: Exception) -> str:
    request = getattr(error, "request", None)
    host = urlsplit(request.url).hostname if request is not None else "the publisher"
    return f"{host} can't be reached ({_reason(error)})"


def _reason(error: Exception) -> str:
    """Say in a few words what requests says in many."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else type(error).__name__
