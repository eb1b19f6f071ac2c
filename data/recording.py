"""Reading ECGs that are no data set: single files in the formats that people keep them in, or a whole store.

A file holds one record, or several: a WFDB header; an array (`.npy`) of leads x timesteps, or records x leads x
timesteps; HDF5 with such an array; CSV or Parquet with a column a lead and a row a timestep; a shard of a store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data import hdf5_shard, parquet_shard
from data.leads import LEADS_12, derive_limb_leads
from data.numpy_record import TRANSPOSED
from data.reader import RecordBlock
from data.record_reader import UNREADABLE, RawRecord, reason
from data.store import MANIFEST_NAME, Manifest, read_manifest, read_shard
from data.wfdb_record import read_wfdb

SLAB_RECORDS = 64
HDF5_NAMES = ("ecg", "tracings", "record_set", "signal", "signals", "data")  # datasets, the first there is
DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True)
class Recording:
    """One record of a file, and what to call it."""

    record_id: str
    record: RawRecord


@dataclass(frozen=True)
class FileFormat:
    """What a file does not say of itself.

    Attributes:
        lead_names: the leads of a file that names none but has as many.
        given_leads: names to use in place of the file's own.
        fs_hz: of a file that does not say it.
    """

    lead_names: tuple[str, ...]
    given_leads: tuple[str, ...] | None = None
    fs_hz: float | None = None

    def names_for(self, n_leads: int) -> tuple[str, ...] | None:
        """Return the names of `n_leads` unnamed leads: as given, else the expected ones, else the standard twelve."""
        known = (self.given_leads,) if self.given_leads is not None else (self.lead_names, LEADS_12)
        return next((names for names in known if len(names) == n_leads), None)

    def rate(self, known_hz: float | None = None) -> float:
        """Return the sampling rate, in Hz: the file's own, else the one that is given.

        Raises:
            ValueError: neither is known.
        """
        rate_hz = self.fs_hz if known_hz is None else known_hz
        if rate_hz is None:
            raise ValueError("its sampling rate is not known; give it with --fs-hz")
        return rate_hz


def read_recordings(path: Path, form: FileFormat) -> Iterator[Recording]:
    """Yield the records of a file or of a store, one at a time.

    Raises:
        ValueError: it can't be read, or what it holds is not known; names the file.
    """
    try:
        yield from _reader(path)(path, form)
    except UNREADABLE as error:
        text = reason(error)
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error


def complete_leads(
    record: RawRecord, wanted: Sequence[str], zero_missing: bool
) -> tuple[RawRecord, tuple[str, ...], tuple[str, ...]]:
    """Add the wanted leads that a record lacks.

    III, aVR, aVL and aVF follow from I and II; others become zero where `zero_missing` allows it.

    Returns:
        The record, the leads that were derived, and those that were set to zero.

    Raises:
        ValueError: a lead is missing, and may not be zero; or all are.
    """
    absent = _absent(record.lead_names, wanted)
    if len(absent) == len(wanted):
        raise ValueError(f"it has none of the model's leads {', '.join(wanted)}, only {', '.join(record.lead_names)}")
    derived: tuple[str, ...] = ()
    if absent and not _absent(record.lead_names, ("I", "II")):
        ecg_LT, names = derive_limb_leads(np.asarray(record.ecg_LT, np.float64), record.lead_names)
        record = replace(record, ecg_LT=ecg_LT, lead_names=names)
        derived = tuple(name for name in absent if name not in _absent(names, wanted))
    zeroed = _absent(record.lead_names, wanted)
    if zeroed and not zero_missing:
        raise ValueError(
            f"the model's lead {zeroed[0]} is missing: it has {', '.join(record.lead_names)}; "
            "--zero-missing-leads sets such leads to zero, --leads names the file's leads"
        )
    ecg_LT = np.concatenate([record.ecg_LT, np.zeros((len(zeroed), record.ecg_LT.shape[1]))])
    return replace(record, ecg_LT=ecg_LT, lead_names=(*record.lead_names, *zeroed)), derived, zeroed


def _absent(names: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    known = {name.lower() for name in names}
    return tuple(name for name in wanted if name.lower() not in known)


_Reader = Callable[[Path, FileFormat], Iterator[Recording]]


def _reader(path: Path) -> _Reader:
    if (path / MANIFEST_NAME).is_file():
        return _read_store
    if path.with_name(f"{path.name}.hea").is_file() or path.with_suffix(".hea").is_file():
        return _read_wfdb  # the header, the stem, or the signal file beside the header
    if not path.exists():
        raise ValueError("there is no such file, store or WFDB record")
    if path.suffix.lower() not in _READERS:
        raise ValueError(f"its format is not known; known are .hea (WFDB), {', '.join(_READERS)}, and stores")
    return _READERS[path.suffix.lower()]


def _read_wfdb(path: Path, form: FileFormat) -> Iterator[Recording]:
    stem = path if path.with_name(f"{path.name}.hea").is_file() else path.with_suffix("")
    record = read_wfdb(str(stem))
    yield Recording(stem.name, replace(record, lead_names=_renamed(record.lead_names, form)))


def _renamed(names: tuple[str, ...], form: FileFormat) -> tuple[str, ...]:
    """Return the names that are given, instead of the file's."""
    if form.given_leads is None:
        return names
    if len(form.given_leads) != len(names):
        raise ValueError(f"it has {len(names)} leads, {', '.join(names)}, but --leads names {len(form.given_leads)}")
    return form.given_leads


# ---------------------------------------------------------------------- arrays


def _read_npy(path: Path, form: FileFormat) -> Iterator[Recording]:
    try:
        array = np.load(path, allow_pickle=False)
    except (TokenError, SyntaxError, MemoryError) as error:  # what numpy lets through of a damaged header
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
    names = _leads_of(array.shape, form, may_be_transposed=False)
    yield from _of_array(path, np.atleast_2d(array), names, form.rate())


def _read_hdf5(path: Path, form: FileFormat) -> Iterator[Recording]:
    with h5py.File(path, "r") as file:
        found = next((file[name] for name in HDF5_NAMES if isinstance(file.get(name), h5py.Dataset)), None)
        if found is None:
            raise ValueError(f"it has no dataset called {', '.join(HDF5_NAMES)}, only {', '.join(file) or 'none'}")
        shape = found.shape
        names = _leads_of(tuple(size for size in shape if size > 1) if len(shape) == 4 else shape, form, True)
        known = found.attrs.get("fs_hz", file.attrs.get("fs_hz"))
        rate_hz = form.rate(None if known is None else float(known))
        ids = np.strings.decode(file["record_id"][:], "utf-8").tolist() if "record_id" in file else None
        lengths = file["length"][:].tolist() if "length" in file else None
        if found.ndim <= 2:
            yield from _of_array(path, np.atleast_2d(found[:]), names, rate_hz)
            return
        for row in range(len(found)):
            ecg_LT = _leads_first(np.squeeze(found[row]), len(names))
            ecg_LT = ecg_LT[:, : None if lengths is None else lengths[row]]
            yield Recording(f"{path.stem}/{row}" if ids is None else ids[row], RawRecord(ecg_LT, rate_hz, names))


def _of_array(path: Path, array: NDArray[Any], names: tuple[str, ...], rate_hz: float) -> Iterator[Recording]:
    if array.ndim == 2:
        yield Recording(path.stem, RawRecord(_leads_first(array, len(names)), rate_hz, names))
        return
    for row, ecg in enumerate(array):
        yield Recording(f"{path.stem}/{row}", RawRecord(_leads_first(ecg, len(names)), rate_hz, names))


def _leads_of(shape: tuple[int, ...], form: FileFormat, may_be_transposed: bool) -> tuple[str, ...]:
    """Return the names of the leads of an array, by their number.

    Raises:
        ValueError: it has another number of leads than is known, or is transposed.
    """
    if len(shape) == 1:
        shape = (1, *shape)
    if len(shape) not in (2, 3):
        raise ValueError(f"an array of leads x timesteps, or records x leads x timesteps, is needed, not {shape}")
    names, swapped = form.names_for(shape[-2]), form.names_for(shape[-1])
    if names is None and swapped is not None:
        if may_be_transposed:
            return swapped
        raise ValueError(TRANSPOSED.format(shape=shape))
    if names is None:
        raise ValueError(f"it has {shape[-2]} leads without names; name them in order: --leads I,II,...")
    return names


def _leads_first(ecg: NDArray[Any], n_leads: int) -> NDArray[Any]:
    ecg = np.atleast_2d(ecg)
    return ecg if ecg.shape[0] == n_leads else ecg.T


# ---------------------------------------------------------------------- tables


def _read_csv(path: Path, form: FileFormat) -> Iterator[Recording]:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    delimiter = max(DELIMITERS, key=first.count)
    is_headed = not all(_is_number(cell) for cell in first.strip().split(delimiter))
    table = pd.read_csv(path, sep=delimiter, header=0 if is_headed else None, encoding="utf-8-sig")
    yield from _of_table(path, table, form)


def _read_parquet(path: Path, form: FileFormat) -> Iterator[Recording]:
    try:
        if "n_leads" in {key.decode() for key in pq.read_schema(path).metadata or {}}:
            yield from _of_shard(path, form)
            return
        table = pq.read_table(path).to_pandas()
    except pa.ArrowException as error:
        raise ValueError(f"can't be read as Parquet ({' '.join(str(error).split())})") from error
    yield from _of_table(path, table, form)


def _of_shard(path: Path, form: FileFormat) -> Iterator[Recording]:
    rows, rate_hz = parquet_shard.read_table(path), form.rate()
    for start in range(0, len(rows.record_ids), SLAB_RECORDS):
        for row, ecg_LT in enumerate(parquet_shard.read_ecg(path, slice(start, start + SLAB_RECORDS)), start=start):
            names = _leads_of(ecg_LT.shape, form, may_be_transposed=False)
            record = RawRecord(ecg_LT[:, : rows.length_N[row]], rate_hz, names)
            yield Recording(str(rows.record_ids[row]), record)


def _of_table(path: Path, table: pd.DataFrame, form: FileFormat) -> Iterator[Recording]:
    """Take a row for a timestep and a column for a lead; columns that are no leads, such as the time, are left out."""
    names = _column_leads(table, form)
    if len(names) < table.shape[1]:
        table = table[[column for column in table.columns if str(column).strip() in names]]
    text = [str(column) for column in table.columns if not pd.api.types.is_numeric_dtype(table[column])]
    if text:
        raise ValueError(f"column {text[0]!r} holds other things than numbers")
    yield Recording(path.stem, RawRecord(table.to_numpy(np.float64).T, form.rate(), names))


def _column_leads(table: pd.DataFrame, form: FileFormat) -> tuple[str, ...]:
    columns = [str(column).strip() for column in table.columns]
    is_headed = all(isinstance(column, str) for column in table.columns)
    if form.given_leads is None and is_headed:
        known = {name.lower() for name in (*form.lead_names, *LEADS_12)}
        leads = tuple(column for column in columns if column.lower() in known)
        if not leads:
            raise ValueError(f"none of its columns {', '.join(columns[:12])} is a lead; name them: --leads I,II,...")
        return leads
    names = form.names_for(len(columns))
    if names is None and form.names_for(len(table)) is not None:
        raise ValueError(f"a row a timestep and a column a lead are needed, but it has {table.shape}: transpose it")
    if names is None:
        raise ValueError(f"it has {len(columns)} columns without names; name them in order: --leads I,II,...")
    return names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------- stores


def _read_store(path: Path, form: FileFormat) -> Iterator[Recording]:
    manifest = read_manifest(path)
    for shard in manifest.shards:
        for start in range(0, shard.n_records, SLAB_RECORDS):
            yield from _of_block(read_shard(path, shard, slice(start, start + SLAB_RECORDS)), manifest)


def _of_block(block: RecordBlock, manifest: Manifest) -> Iterator[Recording]:
    for record_id, ecg_LT, length in zip(block.record_ids.tolist(), block.ecg_NLT, block.length_N, strict=True):
        yield Recording(record_id, RawRecord(ecg_LT[:, :length], manifest.fs_hz, manifest.lead_names))


_READERS: Mapping[str, _Reader] = {
    ".npy": _read_npy,
    hdf5_shard.SUFFIX: _read_hdf5,
    ".hdf5": _read_hdf5,
    ".csv": _read_csv,
    parquet_shard.SUFFIX: _read_parquet,
}
