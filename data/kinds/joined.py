"""Several stores as one, without labels: what pretraining on more than one data set reads.

Records keep their folds, so that what is held out of a data set stays held out, and are called KIND:RECORD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from data.folds import ROLES
from data.leads import LEADS_12
from data.reader import Header, RecordTable
from data.record_reader import Index, RawRecord, RecordConfig, RecordReader
from data.store import Manifest, Shard, read_ecg, read_manifest, read_table

KIND = "joined"
SEPARATOR = ":"  # between the kind of a record's data set and its id there

Missing = Literal["quarantine", "zero"]


def _split_names(names: Any) -> Any:
    return names.split(",") if isinstance(names, str) else names


class JoinedConfig(RecordConfig):
    """Which leads the joined records have."""

    source: str = Field(description="folders of stores, between commas")
    leads: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = Field(
        LEADS_12, min_length=1, description="leads of the store, between commas; the usual 12"
    )
    single_lead: str = Field("I", description="which lead a store's only lead is where its name is none of `leads`")
    missing: Missing = Field(
        "quarantine", description="what becomes of records that lack a lead: left out, or zeros in its place"
    )


class Place(NamedTuple):
    """Where a record's signal is, and what it is called."""

    store: Path
    shard: Shard
    row: int
    length: int
    fs_hz: float
    lead_names: tuple[str, ...]


def build_reader(config: JoinedConfig) -> RecordReader:
    """Read the tables of all stores.

    Raises:
        ValueError: there is no such store, one has folds beyond 1 to 10, or two hold the same record.
    """
    stores = [Path(name.strip()).absolute() for name in config.source.split(",")]  # workers run in other folders
    manifests = [_read_manifest(store) for store in stores]
    index = _join([_index(store, each, config) for store, each in zip(stores, manifests, strict=True)])
    _check_once(index.record_ids.tolist())
    header = Header(
        kind=KIND,
        source=config.source,
        options=config.model_dump(mode="json"),
        lead_names=config.leads,
        fs_hz=config.fs_hz,
        n_timesteps=config.n_timesteps,
        label_sets={},
        folds=ROLES,
        patients_known=all(manifest.patients_known for manifest in manifests),
        notes=("unlabelled: for pretraining", *(note for manifest in manifests for note in manifest.notes)),
    )
    return RecordReader(header, index, partial(read_joined, leads=config.leads, missing=config.missing), config.nan)


def read_joined(place: Place, leads: tuple[str, ...], missing: Missing) -> RawRecord:
    """Read one record; zeros stand in for leads that it lacks where that is asked for, unless it lacks all."""
    ecg_LT = read_ecg(place.store, place.shard, slice(place.row, place.row + 1))[0, :, : place.length]
    known = {name.lower() for name in place.lead_names}
    absent = tuple(name for name in leads if name.lower() not in known)
    if missing == "quarantine" or not absent or len(absent) == len(leads):
        return RawRecord(ecg_LT, place.fs_hz, place.lead_names)
    zeros_LT = np.zeros((len(absent), ecg_LT.shape[1]), ecg_LT.dtype)
    return RawRecord(np.concatenate([ecg_LT, zeros_LT]), place.fs_hz, (*place.lead_names, *absent))


def _read_manifest(store: Path) -> Manifest:
    manifest = read_manifest(store)
    known = {fold for folds in ROLES.values() for fold in folds}
    beyond = sorted(set(manifest.counts.records) - known)
    if beyond:
        raise ValueError(f"{store} has a fold {beyond[0]}, but joined stores keep folds 1 to 10 alone; leave it out")
    return manifest


def _index(store: Path, manifest: Manifest, config: JoinedConfig) -> Index:
    names = manifest.lead_names
    if len(names) == 1 and names[0].lower() not in {name.lower() for name in config.leads}:
        names = (config.single_lead,)
    tables = [read_table(store, shard) for shard in manifest.shards]
    return Index(
        places=list(_places(store, manifest, names, tables)),
        record_ids=_named(manifest.kind, [table.record_ids for table in tables]),
        patient_ids=_named(manifest.kind, [table.patient_ids for table in tables]),
        folds=np.concatenate([table.folds for table in tables]),
        labels={},
    )


def _places(
    store: Path, manifest: Manifest, lead_names: tuple[str, ...], tables: Sequence[RecordTable]
) -> Iterator[Place]:
    for shard, table in zip(manifest.shards, tables, strict=True):
        for row, length in enumerate(table.length_N.tolist()):
            yield Place(store, shard, row, length, manifest.fs_hz, lead_names)


def _named(kind: str, ids: Sequence[NDArray[np.str_]]) -> NDArray[np.str_]:
    """Put the kind before ids; those of a joined store have it."""
    every = np.concatenate(ids)
    return every if kind == KIND else np.array([f"{kind}{SEPARATOR}{each}" for each in every.tolist()], np.str_)


def _join(parts: Sequence[Index]) -> Index:
    return Index(
        places=[place for part in parts for place in part.places],
        record_ids=np.concatenate([part.record_ids for part in parts]),
        patient_ids=np.concatenate([part.patient_ids for part in parts]),
        folds=np.concatenate([part.folds for part in parts]),
        labels={},
    )


def _check_once(record_ids: Sequence[str]) -> None:
    record, n_times = Counter(record_ids).most_common(1)[0]
    if n_times > 1:
        raise ValueError(f"the stores hold the record {record} {n_times} times; join stores of different data sets")
