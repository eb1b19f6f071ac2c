"""Reading data sets whose records are read one by one: from a file each, or from rows of a few large ones.

A kind supplies an `Index`, which it knows before it reads any signal, and a function that reads one record as its
publisher ships it. What is the same for all kinds happens here: the leads are put in the data set's order, the signal
is brought to one sampling rate and length, and a record that can't be taken in is quarantined with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from data.dataset import Signal
from data.gaps import fill_gaps
from data.leads import MIN_SD_MV
from data.reader import Header, Quarantined, RecordBlock
from data.resampling import resample

CHUNK_BYTES = 8 * 1024**2  # 174 records of 12 x 1,000: small sets are read in parallel too
MAX_SWING_MV = 100.0  # from a lead's median; no electrode sees so much: the gain is wrong
UNREADABLE = (OSError, ValueError, KeyError, IndexError, EOFError, TypeError, ArithmeticError)
"""What libraries raise on a damaged file."""

NanPolicy = Literal["quarantine", "zero", "interpolate"]


class RecordConfig(BaseModel):
    """What every kind of this module takes. A kind names its own defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="the data set as its publisher ships it")
    fs_hz: float = Field(
        500, gt=0, le=10_000, description="sampling rate of the store; records of another one are resampled",
        json_schema_extra={"unit": "Hz"},
    )  # fmt: skip
    duration_s: float = Field(
        10, gt=0, description="length of the store's records: longer ones lose their end, shorter ones are padded",
        json_schema_extra={"unit": "s"},
    )  # fmt: skip
    nan: NanPolicy = Field(
        "quarantine",
        description="what becomes of values that are not finite",
    )

    @property
    def n_timesteps(self) -> int:
        return max(1, round(self.fs_hz * self.duration_s))


@dataclass(frozen=True)
class RawRecord:
    """One record as its publisher ships it, in mV, of any length."""

    ecg_LT: NDArray[np.floating[Any]]
    fs_hz: float
    lead_names: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """What is known of N records before their signal is read.

    Attributes:
        places: what the kind's function needs to read each record, e.g. a path.
        labels: label set -> labels_NK.
        meta: age (years), sex (0 male, 1 female), NaN where unknown; and what else is known in numbers.
    """

    places: Sequence[Any]
    record_ids: NDArray[np.str_]
    patient_ids: NDArray[np.str_]
    folds: NDArray[np.int16]
    labels: Mapping[str, NDArray[np.float32]]
    meta: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.record_ids)

    def take(self, rows: slice | NDArray[np.intp]) -> Index:
        """Return some of the records."""
        places = self.places[rows] if isinstance(rows, slice) else [self.places[row] for row in rows]
        return Index(
            places=places,
            record_ids=self.record_ids[rows],
            patient_ids=self.patient_ids[rows],
            folds=self.folds[rows],
            labels={name: labels_NK[rows] for name, labels_NK in self.labels.items()},
            meta={name: values_N[rows] for name, values_N in self.meta.items()},
        )


class RecordReader:
    """A `data.reader.Reader` over an index. What tasks get of it is small: a chunk carries its own part of the index.

    Args:
        read_record: place -> the record; a module-level function or a `functools.partial` of one. What it raises of
            `UNREADABLE` quarantines the record, with the message as the reason.
        quarantined: records that the kind already knows it can't take in.
    """

    def __init__(
        self,
        header: Header,
        index: Index,
        read_record: Callable[[Any], RawRecord],
        nan: NanPolicy = "quarantine",
        quarantined: Sequence[Quarantined] = (),
    ) -> None:
        self._header, self._index, self._read_record, self._nan = header, index, read_record, nan
        self._quarantined = tuple(quarantined)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None, "_quarantined": ()}

    @property
    def header(self) -> Header:
        return self._header

    def chunks(self) -> Sequence[Chunk]:
        size = max(1, CHUNK_BYTES // (len(self._header.lead_names) * self._header.n_timesteps * 4))
        starts = range(0, max(1, len(self._index)), size)
        return [
            Chunk(self._index.take(slice(start, start + size)), self._quarantined if start == 0 else ())
            for start in starts
        ]

    def read(self, chunk: Chunk) -> RecordBlock:
        index, quarantined = chunk.index, list(chunk.quarantined)
        shape = (len(index), len(self._header.lead_names), self._header.n_timesteps)
        ecg_NLT, length_N, kept = np.zeros(shape, np.float32), np.zeros(len(index), np.int32), []
        for row, (place, record_id) in enumerate(zip(index.places, index.record_ids.tolist(), strict=True)):
            try:
                signal_LT = conform(self._read_record(place), self._header, self._nan)
            except UNREADABLE as error:
                quarantined.append(Quarantined(record_id, reason(error)))
                continue
            length_N[row] = signal_LT.shape[1]
            ecg_NLT[row, :, : signal_LT.shape[1]] = signal_LT
            kept.append(row)
        good = index.take(np.array(kept, np.intp))
        return RecordBlock(
            ecg_NLT=ecg_NLT[kept] if len(kept) < len(index) else ecg_NLT,
            length_N=length_N[kept],
            labels=good.labels,
            record_ids=good.record_ids,
            patient_ids=good.patient_ids,
            folds=good.folds,
            meta=good.meta,
            quarantined=tuple(quarantined),
        )


@dataclass(frozen=True)
class Chunk:
    """A piece of work: some records, and those before them that are known to be bad."""

    index: Index
    quarantined: tuple[Quarantined, ...] = ()


def conform(record: RawRecord, header: Header | Signal, nan: NanPolicy) -> NDArray[np.float32]:
    """Return the record as the store holds it: ecg_LT in mV, with the header's leads and rate, at most as long.

    Raises:
        ValueError: it can't be; says why.
    """
    ecg_LT = np.asarray(record.ecg_LT, np.float64)
    if ecg_LT.ndim != 2 or ecg_LT.shape[0] != len(record.lead_names):
        raise ValueError(f"{len(record.lead_names)} leads are named, but the signal has the shape {ecg_LT.shape}")
    if not ecg_LT.shape[1]:
        raise ValueError("no signal: it has no timesteps")
    ecg_LT = _fill_gaps(_pick_leads(ecg_LT, record.lead_names, header.lead_names), nan)
    if (ecg_LT.std(axis=1) < MIN_SD_MV).all():
        raise ValueError("no signal: every lead is constant")
    swing_mv = _swing_mv(ecg_LT)
    if swing_mv > MAX_SWING_MV:
        raise ValueError(f"wrong gain: the signal swings by {swing_mv:,.0f} mV, at most {MAX_SWING_MV:g} are believed")
    return resample(ecg_LT, record.fs_hz, header.fs_hz)[:, : header.n_timesteps].astype(np.float32)


def _swing_mv(ecg_LT: NDArray[np.float64]) -> float:
    """Return how far the signal gets from a lead's median, or what it can be at most where that is believed."""
    range_mv = float(np.ptp(ecg_LT, axis=1).max())
    if range_mv <= MAX_SWING_MV:
        return range_mv  # a median takes as long as reading the record
    return float(np.abs(ecg_LT - np.median(ecg_LT, axis=1, keepdims=True)).max())


def reason(error: Exception) -> str:
    """Return an error as the one line of a reason."""
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"


def _pick_leads(ecg_LT: NDArray[np.float64], names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.float64]:
    if tuple(names) == tuple(wanted):
        return ecg_LT
    rows = {name.lower(): row for row, name in enumerate(names)}
    missing = [name for name in wanted if name.lower() not in rows]
    if missing:
        raise ValueError(f"lead {missing[0]} is missing: it has {len(names)} leads, {', '.join(names)}")
    return ecg_LT[[rows[name.lower()] for name in wanted]]


def _fill_gaps(ecg_LT: NDArray[np.float64], nan: NanPolicy) -> NDArray[np.float64]:
    gap_LT = ~np.isfinite(ecg_LT)
    if not gap_LT.any():
        return ecg_LT
    if nan == "quarantine":
        raise ValueError(f"{int(gap_LT.sum())} values are not finite; --nan zero or interpolate takes such records in")
    return fill_gaps(ecg_LT, nan)
