"""Features of tokens on disk: a folder of Parquet files, one a shard of the store, and `features.json`.

Made in parallel through Ray Data, a task a shard, a slab of records at a time: memory does not grow with the records,
and no features travel through the driver. Readers take row groups in random order.

N: records, F: tokens, D: features, M: tokens of several records together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from data.config import DataConfig
from data.loading import CheckedTables, build_plan, check_shards, select_role, shard_error
from data.preprocessing import is_global, output_lengths
from data.selection import Plan, Selection, decode
from data.store import read_manifest
from data.store_folder import REQUEST_NAME, new_folder, write_whole
from data.token_features import Extract, TokenFeatures
from data.tokens import TokenGrid

MANIFEST_NAME: Final = "features.json"
ROLES: Final = ("train", "val")  # nothing is fitted to the test folds, nor looked up there
SLAB_RECORDS: Final = 64  # in memory at once: 12 leads of 5 s at 500 Hz with their windows are some 100 MB
ROW_GROUP_RECORDS: Final = 16  # what a random read takes at once

Role = Literal["train", "val"]
Progress = Callable[[int, int], None]


class Part(BaseModel):
    """One file: the records of a role in one shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    role: Role
    n_records: int


class FeatureManifest(BaseModel):
    """What `features.json` says.

    Attributes:
        made_by: the extractor's own description: type and options, or an encoder and its layer.
        store: fingerprint of the store; preprocess: its steps. Together with `made_by` they decide every number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    made_by: dict[str, Any]
    store: str
    preprocess: tuple[dict[str, Any], ...]
    grid: TokenGrid
    n_features: int
    parts: tuple[Part, ...]

    def n_records(self, role: Role) -> int:
        return sum(part.n_records for part in self.parts if part.role == role)


@dataclass(frozen=True)
class FeatureStore:
    """A folder of features that is whole."""

    folder: Path
    manifest: FeatureManifest

    @staticmethod
    def open(folder: Path) -> FeatureStore:
        """Open a folder.

        Raises:
            ValueError: there are no features; one line, with the way out.
        """
        path = folder / MANIFEST_NAME
        try:
            return FeatureStore(folder, FeatureManifest.model_validate_json(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"{folder} has no features, as it has no {MANIFEST_NAME}; compute them first: "
                "searchspaces/hubert_ecg_features.yaml"
            ) from None
        except ValidationError as error:
            raise ValueError(f"{path} is of another version ({error.errors()[0]['msg']}); compute it anew") from None

    def batches(self, role: Role, batch_records: int, seed: int | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield features_MD of the tokens of some `batch_records` records at a time, padding left out.

        Args:
            seed: row groups of all files come in a random order; None: in the order of the store.
        """
        places = [
            (part, group)
            for part in self.manifest.parts
            if part.role == role
            for group in range(-(-part.n_records // ROW_GROUP_RECORDS))
        ]
        if seed is not None:
            np.random.default_rng(seed).shuffle(places)
        n_groups = max(1, batch_records // ROW_GROUP_RECORDS)
        for start in range(0, len(places), n_groups):
            groups = [self._read(part, group) for part, group in places[start : start + n_groups]]
            yield np.concatenate([group.features_NFD[group.valid_NF] for group in groups])

    def records(self, part: Part) -> Iterator[tuple[list[str], TokenFeatures]]:
        """Yield the records of one file in order, a row group at a time: their ids and features."""
        with pq.ParquetFile(self.folder / part.file) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                yield table["record_id"].to_pylist(), self._features(table)

    def _read(self, part: Part, group: int) -> TokenFeatures:
        with pq.ParquetFile(self.folder / part.file) as file:
            return self._features(file.read_row_group(group, columns=["features", "valid"], use_threads=False))

    def _features(self, table: pa.Table) -> TokenFeatures:
        shape = (len(table), self.manifest.grid.n_tokens)
        return TokenFeatures(
            rows_of(table["features"]).reshape(*shape, self.manifest.n_features), rows_of(table["valid"]).reshape(shape)
        )


@dataclass(frozen=True)
class _Writer:
    """Writes the features of one shard's records of one role; runs in any process."""

    plan: Plan
    extract: Extract
    folder: Path

    def write(self, work: _Work) -> Part:
        name = f"{Path(self.plan.shards[work.shard].file).stem}-{work.role}.parquet"
        part = Part(file=name, role=work.role, n_records=len(work.row_R))
        if (self.folder / name).exists():  # an earlier process, which was killed later, has written it
            return part
        partial_path = self.folder / f"{name}.partial"
        writer = None
        for start in range(0, len(work.row_R), SLAB_RECORDS):
            rows = slice(start, start + SLAB_RECORDS)
            ecg_RLT = decode(self.plan, work.shard, work.row_R[rows], work.length_R[rows])
            lengths = output_lengths(self.plan.steps, self.plan.stored_signal, work.length_R[rows])
            table = _table(work.record_ids[rows], self.extract(ecg_RLT, lengths))
            if writer is None:
                writer = pq.ParquetWriter(
                    partial_path, table.schema, compression="zstd", use_dictionary=False, write_statistics=False
                )
            writer.write_table(table, row_group_size=ROW_GROUP_RECORDS)
        assert writer is not None, "a role without records in a shard is no work"
        writer.close()
        os.replace(partial_path, self.folder / name)
        return part


@dataclass(frozen=True)
class _Work:
    """The records of one role in one shard."""

    shard: int
    role: Role
    row_R: NDArray[np.int64]
    length_R: NDArray[np.int32]
    record_ids: tuple[str, ...]


def write_features(
    config: DataConfig,
    extract: Extract,
    made_by: dict[str, Any],
    out: Path,
    *,
    parallel: bool = True,
    progress: Progress | None = None,
) -> FeatureStore:
    """Compute the features of a store's training and validation records, and write them to the folder `out`.

    Args:
        extract: from a slab of preprocessed records to their features; the same for every record in any slab.
        made_by: what `extract` is, in JSON's types; kept in the manifest.
        parallel: through Ray Data, in the Ray that runs or one of its own; else in this process.
        progress: called with (files written, files in all).

    Raises:
        ValueError: as `data.loading.describe`; the chain ends with a z-score over all records; `out` is not empty.
        CorruptShard: a shard is damaged, and `skip_bad_records` is not set.
    """
    plan = build_plan(config)
    if is_global(plan.steps):
        raise ValueError("features of single records can't follow zscore: {per: global}; take {per: lead} or minmax")
    checked = check_shards(config, plan, (shard_error(plan, index) for index in range(len(plan.shards))))
    work = list(_split_work(plan, checked))
    made = {**made_by, "store": read_manifest(plan.store).fingerprint}
    with new_folder(out, json.dumps(made, sort_keys=True)) as folder:
        write = _Writer(plan, extract, folder).write
        parts = []
        for part in _write_parallel(write, work) if parallel else map(write, work):
            parts.append(part)
            if progress is not None:
                progress(len(parts), len(work))
        parts.sort(key=lambda part: part.file)
        n_features = _n_features(folder, parts[0], _grid(plan))
        manifest = FeatureManifest(
            made_by=made_by,
            store=made["store"],
            preprocess=tuple(step.model_dump(mode="json", exclude_none=True) for step in plan.steps),
            grid=_grid(plan),
            n_features=n_features,
            parts=tuple(parts),
        )
        write_whole(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2) + "\n")
        (folder / REQUEST_NAME).unlink()
    return FeatureStore.open(out)


def feature_folder(config: DataConfig, made_by: dict[str, Any]) -> Path:
    """Return where features lie beside their store: a folder for everything that decides their numbers."""
    steps = [step.model_dump(mode="json", exclude_none=True) for step in config.preprocess]
    roles = config.model_dump_json(include={"folds", "k_fold", "seed", "finetune_label_ratio", "skip_bad_records"})
    store = Path(config.store)
    decided = json.dumps([made_by, steps, roles, read_manifest(store).fingerprint], sort_keys=True)
    name = made_by.get("feature_type", "features")
    return store.with_name(f"{store.name}.features") / f"{name}-{hashlib.sha256(decided.encode()).hexdigest()[:8]}"


def _grid(plan: Plan) -> TokenGrid:
    return grid_of_signal(plan.signal.lead_names, plan.signal.n_timesteps, plan.signal.fs_hz)


def grid_of_signal(lead_names: Sequence[str], n_timesteps: int, fs_hz: float) -> TokenGrid:
    """Return the tokens of preprocessed records."""
    return TokenGrid(len(lead_names), n_timesteps, fs_hz)


def _split_work(plan: Plan, checked: CheckedTables) -> Iterator[_Work]:
    for role in ROLES:
        selection: Selection = select_role(plan, checked, role)
        for shard in np.unique(selection.shard_N).tolist():
            each = selection.take(selection.shard_N == shard)
            yield _Work(shard, role, each.row_N, each.length_N, tuple(each.record_ids.tolist()))


def _write_parallel(write: Any, work: Sequence[_Work]) -> Iterable[Part]:
    from data.parallel import map_items, running_ray  # Ray takes a second to import, which a reader need not wait for

    with running_ray(len(work)):
        for row in map_items(partial(_write_item, write=write), work):
            yield Part.model_validate_json(row["part"])


def _write_item(row: dict[str, Any], write: Any) -> dict[str, Any]:
    return {"part": write(row["item"]).model_dump_json()}


def _table(record_ids: Sequence[str], features: TokenFeatures) -> pa.Table:
    return pa.table(
        {
            "record_id": list(record_ids),
            "features": lists_of(features.features_NFD.astype(np.float32, copy=False)),
            "valid": lists_of(features.valid_NF),
        }
    )


def _n_features(folder: Path, part: Part, grid: TokenGrid) -> int:
    width = pq.read_schema(folder / part.file).field("features").type.list_size
    return int(width // grid.n_tokens)


def lists_of(values: NDArray[Any]) -> pa.FixedSizeListArray:
    """Return one fixed-size list a record."""
    width = int(np.prod(values.shape[1:]))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), width)


def rows_of(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of fixed-size lists as one row a record."""
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, width) for chunk in column.chunks]
    return np.concatenate(parts)
