"""The folder of a store in the making: hidden beside its place until the store is whole, and kept after a kill."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

REQUEST_NAME = "request.txt"


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial_path = path.with_suffix(".partial")
    with partial_path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial_path, path)


@contextmanager
def new_folder(out: Path, request: str) -> Iterator[Path]:
    """Yield a hidden folder that becomes `out` at the end.

    It stays after an interruption, for the next call with the same `request`, and disappears where the data are bad.
    """
    check_free(out)
    folder = partial_folder(out)
    lock = FileLock(f"{folder}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is writing {out}; wait for it, or choose another --out") from None
    try:
        if folder.exists() and _read_request(folder) != _hash(request):
            shutil.rmtree(folder)  # of another request: only whole stores are kept
        folder.mkdir(exist_ok=True)
        write_whole(folder / REQUEST_NAME, _hash(request))
        try:
            yield folder
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rmdir()  # it is empty
        folder.rename(out)
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def partial_folder(out: Path) -> Path:
    """Return the hidden folder of a store in the making: beside the first folder that exists, so that a failure
    leaves no empty parents of `out` behind."""
    out = out.absolute()
    parent = next(folder for folder in out.parents if folder.is_dir())
    name = "-".join(out.relative_to(parent).parts)
    return parent / f".{name}.partial"


def _read_request(folder: Path) -> str:
    path = folder / REQUEST_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def check_free(out: Path) -> None:
    """Check that `out` is no file and no folder with content.

    Raises:
        ValueError: it is.
    """
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; nothing is overwritten: choose another --out, or remove it")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; a store is a folder: choose another --out")
