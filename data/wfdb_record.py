"""Reading one WFDB record: the format of PhysioNet, in all the header styles of its challenges."""

from __future__ import annotations

import zipfile
import zlib
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import wfdb

from data.record_reader import UNREADABLE, RawRecord
from data.wfdb_format16 import PhysicalSignal, check_promise, read_format16


class ZippedRecord(NamedTuple):
    """A record in a zip archive: a header, and one signal file beside it."""

    archive: str
    member: str  # path in the archive, without a suffix
    signal_suffix: str  # .mat or .dat


def read_wfdb(path: str) -> RawRecord:
    """Read the record at `path` (without a suffix) in mV.

    Raises:
        ValueError: it can't be read, or its units or gains are not those of an ECG.
    """
    try:
        signal = read_format16(path) or _read_any_format(path)
    except UNREADABLE as error:
        raise ValueError(f"can't be read as a WFDB record ({error}); download it anew") from error
    scale = {"mv": 1.0, "uv": 1e-3, "v": 1e3}
    unknown = [unit for unit in signal.units if unit.lower() not in scale]
    if unknown:
        raise ValueError(f"a lead is in {unknown[0]!r}; mV, uV and V are known")
    factor_L = np.array([scale[unit.lower()] for unit in signal.units])
    return RawRecord(signal.ecg_LT * factor_L[:, np.newaxis], signal.fs_hz, signal.lead_names)


def _read_any_format(path: str) -> PhysicalSignal:
    check_promise(path)
    try:
        record = wfdb.rdrecord(path)
    except OSError:
        raise
    except Exception as error:  # wfdb documents none, and a broken header makes it trip over whatever comes first
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if record.p_signal is None:
        raise ValueError("its header names no lead")
    return PhysicalSignal(record.p_signal.T, tuple(record.units), float(record.fs), tuple(record.sig_name))


def read_zipped_wfdb(place: ZippedRecord) -> RawRecord:
    """Read a record in mV out of an archive, without unpacking the others.

    Raises:
        ValueError: as `read_wfdb`, or the archive is damaged there.
    """
    with TemporaryDirectory() as folder:
        stem = Path(folder) / PurePosixPath(place.member).name
        for suffix in (".hea", place.signal_suffix):
            try:
                stem.with_name(stem.name + suffix).write_bytes(_opened(place.archive).read(place.member + suffix))
            except (KeyError, zipfile.BadZipFile, zlib.error) as error:
                raise ValueError(f"can't be read from {place.archive} ({error}); download it anew") from error
        return read_wfdb(str(stem))


@lru_cache(maxsize=1)
def _opened(archive: str) -> zipfile.ZipFile:
    """Open an archive once a process: its directory of 17,000 entries takes longer to read than a record."""
    return zipfile.ZipFile(archive)
