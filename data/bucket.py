"""Buckets, seen through copies: below one folder of each node, a path stands for an object of a bucket.

`s3://bucket/a/b` is `~/.cache/ecg-sweep/bucket/a/b` on every node. Who writes a file there sends it, and who reads one
fetches it first. A file here is the bucket's where its size and its time are, as rsync has it, and does not travel
again: what has travelled has the time of the object, in whole seconds. What begins with a dot is of one process, and
stays. All other paths are shared by all nodes, and need none of this.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

SCHEME: Final = "s3://"
COPIES: Final = "ECG_SWEEP_COPIES"
"""Environment variable: the folder in which the copies of all buckets are, the same path on every node."""

N_AT_A_TIME: Final = 8  # files on their way
BLOCK_BYTES: Final = 4 * 1024**2


def copies() -> Path:
    """Return the folder that has a folder for each bucket."""
    return Path(os.environ.get(COPIES) or Path.home() / ".cache") / "ecg-sweep"


def path_of(uri: str) -> Path:
    """Return where the copy of `s3://bucket/...` lies."""
    return copies() / uri.removeprefix(SCHEME)


def uri_of(path: Path) -> str:
    """Return `s3://bucket/...` for a path that is a copy's, else an empty text."""
    root = copies()
    return f"{SCHEME}{path.relative_to(root).as_posix()}" if path.is_relative_to(root) else ""


def fetch(path: Path) -> None:
    """Make a copy, of a file or of a folder with all below it, what the bucket has; what the bucket lacks is removed.

    Raises:
        OSError: the bucket can't be read, or this node's disk takes no more.
    """
    if not uri_of(path):
        return
    objects, files = _objects(path), _files(path)
    for extra in files.keys() - objects.keys():
        extra.unlink(missing_ok=True)
    _each(_download, [file for file, info in objects.items() if files.get(file) != _stamp(info)])


def send(path: Path) -> None:
    """Put a file, or what has changed in a folder, into the bucket; an object is put whole or not at all.

    Raises:
        OSError: the bucket does not take it.
    """
    if uri_of(path):
        objects = {file: _stamp(info) for file, info in _objects(path).items()}
        _each(_upload, [file for file, stamp in _files(path).items() if objects.get(file) != stamp])


def remove(path: Path) -> None:
    """Remove a file, or a folder with all below it, here and in the bucket."""
    if uri_of(path):
        _remove_objects(_bucket(path), _key(path))
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # another process may remove the same
    else:
        path.unlink(missing_ok=True)


def read(path: Path) -> bytes:
    """Return what the bucket has in a file; nothing where it has none."""
    if path not in _objects(path):
        return b""
    with _bucket(path).open_input_stream(_key(path)) as source:
        return bytes(source.read())


def folders(path: Path) -> list[str]:
    """Return the names of the folders in a folder: in the bucket's for a copy."""
    if not uri_of(path):
        return [each.name for each in path.iterdir() if each.is_dir()] if path.exists() else []
    from pyarrow.fs import FileSelector, FileType

    listed = _bucket(path).get_file_info(FileSelector(_key(path), allow_not_found=True))
    return [info.base_name for info in listed if info.type == FileType.Directory]


def sizes(path: Path) -> dict[Path, int]:
    """Return the bytes of each file below a folder: of the bucket's for a copy."""
    if uri_of(path):
        return {file: info.size for file, info in _objects(path).items()}
    return {file: size for file, (size, _) in _stats(path).items()}


def _objects(path: Path) -> Mapping[Path, FileInfo]:
    """Return what the bucket has at `path` and below, by its place here."""
    from pyarrow.fs import FileSelector, FileType

    bucket, key = _bucket(path), _key(path)
    found = bucket.get_file_info(key)
    is_folder = found.type == FileType.Directory
    listed = bucket.get_file_info(FileSelector(key, recursive=True)) if is_folder else [found]
    return {copies() / info.path: info for info in listed if info.type == FileType.File}


def _remove_objects(bucket: FileSystem, key: str) -> None:
    from pyarrow.fs import FileType

    kind = bucket.get_file_info(key).type
    if kind == FileType.Directory:
        bucket.delete_dir(key)  # with what stands for the folder itself
    elif kind == FileType.File:
        bucket.delete_file(key)


def _each(work: Callable[[Path], object], paths: Sequence[Path]) -> None:
    with ThreadPoolExecutor(N_AT_A_TIME) as pool:
        for _ in pool.map(work, paths):  # which raises what one of them has raised
            pass


def _download(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _bucket(path).open_input_stream(_key(path)) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK_BYTES)
        _take_time_of(path, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _upload(path: Path) -> None:
    try:
        with path.open("rb") as source, _bucket(path).open_output_stream(_key(path)) as target:
            before = os.fstat(source.fileno())
            shutil.copyfileobj(source, target, BLOCK_BYTES)
        if os.path.samestat(path.stat(), before) and path.stat().st_mtime_ns == before.st_mtime_ns:
            _take_time_of(path, path)
    except FileNotFoundError:  # it was removed meanwhile
        return


def _take_time_of(path: Path, file: Path) -> None:
    """Give `file` the time of the bucket's object of `path`."""
    _, time_ns = _stamp(_bucket(path).get_file_info(_key(path)))
    os.utime(file, ns=(time_ns, time_ns))


def _files(path: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time in ns of each file that may travel."""
    return {
        file: stamp
        for file, stamp in _stats(path).items()
        if not any(part.startswith(".") for part in file.relative_to(path).parts)
    }


def _stats(path: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time in ns of each file here, at `path` and below; what vanishes is left out."""
    found = {}
    for each in (path, *path.rglob("*")):
        try:
            status = each.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(status.st_mode):
            found[each] = status.st_size, status.st_mtime_ns
    return found


def _stamp(info: FileInfo) -> tuple[int, int]:
    return info.size, int(info.mtime.timestamp()) * 10**9  # listings tell fractions of it, and others do not


def _key(path: Path) -> str:
    return path.relative_to(copies()).as_posix()


def _bucket(path: Path) -> FileSystem:
    return _connected(_key(path).partition("/")[0])


@cache
def _connected(bucket: str) -> FileSystem:
    """Return the file system of a bucket, in its region; credentials and AWS_ENDPOINT_URL as AWS's own tools find them.

    Raises:
        OSError: there is no such bucket, or it can't be asked.
    """
    from pyarrow.fs import FileSystem, FileType  # here: most sweeps have no bucket

    connected, key = FileSystem.from_uri(f"{SCHEME}{bucket}")
    if connected.get_file_info(key).type == FileType.NotFound:
        raise OSError(f"there is no bucket {bucket!r}; make it, or name another one")
    return connected
