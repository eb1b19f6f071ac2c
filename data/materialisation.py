"""Preparing a data set once for a whole cluster, through Ray Data.

Ray Data decodes and preprocesses the shards in parallel into blocks; one task takes the blocks as they come and copies
their records into one array a role. The arrays are its results and so lie in the object store of the driver's node,
owned by the driver but never in its memory; every other node that trains gets a copy of its own, once. A block is
released as soon as it is copied: the store never holds much more than one copy of the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from data.checksums import checksums
from data.dataset import Signal
from data.parallel import dataset_of, map_items, quiet_ray_data
from data.preprocessing import is_global, output_lengths
from data.scaling import Statistics, record_sums, statistics
from data.selection import Plan, Selection, decode
from data.sharing import SharedDataset, SharedSplit
from data.store import CorruptShard, read_ecg, verify_shard
from data.this_node import on_this_node

PIECE = 512  # records that are read at a time for their checksums
STORE_SHARE = 0.8  # of the available object store; the rest is for blocks and reports


def materialise_plan(
    plan: Plan, roles: Sequence[str], memory_bytes: int | None, check: Callable[[Iterable[str]], Any]
) -> SharedDataset:
    """Prepare the records of `roles`; `check` turns the shards' errors into `data.loading.CheckedTables`."""
    from data.loading import select_role

    if not ray.is_initialized():
        raise RuntimeError("Ray is not running; call ray.init() first, or use data.loading.load() without Ray")
    checked = check(_shard_errors(plan))
    selections = {role: select_role(plan, checked, role) for role in roles}
    n_bytes = {role: _n_bytes(plan, selection) for role, selection in selections.items()}
    held = roles_that_fit(n_bytes, _memory_limit() if memory_bytes is None else memory_bytes)
    stats = None
    if is_global(plan.steps) and "train" not in held:
        stats = _measure_stream(plan, selections.get("train") or select_role(plan, checked, "train"))
    arrays, stats = _gather_all(plan, {role: selections[role] for role in held}, stats)
    selections |= {role: with_checksums(plan, selection) for role, selection in selections.items() if role not in held}
    splits = {role: SharedSplit(ray.put(selection), arrays.get(role)) for role, selection in selections.items()}
    return SharedDataset(plan, splits, stats, checked.n_bad_records, checked.bad_shards)


def roles_that_fit(n_bytes: Mapping[str, int], limit_bytes: float) -> list[str]:
    """Return the roles whose records fit in memory together, taken from the smallest up."""
    held, used = [], 0
    for role in sorted(n_bytes, key=lambda role: n_bytes[role]):
        used += n_bytes[role]
        if used <= limit_bytes:
            held.append(role)
    return held


def _shard_errors(plan: Plan) -> list[str]:
    rows = map_items(partial(_verify_item, plan=plan), range(len(plan.shards)))
    errors = {row["index"]: row["error"] for row in rows}
    return [errors[index] for index in range(len(plan.shards))]


def _verify_item(row: dict[str, Any], plan: Plan) -> dict[str, Any]:
    plan.fetch(row["item"])
    try:
        verify_shard(plan.store, plan.shards[row["item"]])
    except CorruptShard as error:
        return {"index": row["index"], "error": str(error)}
    return {"index": row["index"], "error": ""}


@dataclass(frozen=True)
class Places:
    """Where the N records of a role are, without their labels and ids: what tasks need."""

    shard_N: NDArray[np.int64]
    row_N: NDArray[np.int64]
    length_N: NDArray[np.int32]

    @staticmethod
    def of(selection: Selection) -> Places:
        return Places(selection.shard_N, selection.row_N, selection.length_N)


def with_checksums(plan: Plan, selection: Selection) -> Selection:
    """Return a selection that streams with the checksum of each of its records, read from verified shards."""
    shards = np.unique(selection.shard_N).tolist()
    sums_N = np.empty(len(selection), np.uint64)
    for row in map_items(partial(_checksum_item, plan=plan, places=Places.of(selection)), shards):
        sums_N[selection.shard_N == row["shard"]] = np.asarray(row["sums"], np.uint64)
    return replace(selection, sums_N=sums_N)


def _checksum_item(row: dict[str, Any], plan: Plan, places: Places) -> dict[str, Any]:
    plan.fetch(row["item"])
    shard = plan.shards[row["item"]]
    row_R = places.row_N[places.shard_N == row["item"]]
    pieces = (read_ecg(plan.store, shard, slice(start, start + PIECE)) for start in range(0, shard.n_records, PIECE))
    sums_N = np.concatenate([checksums(ecg_NLT) for ecg_NLT in pieces])
    verify_shard(plan.store, shard)  # afterwards: what was summed is what was verified
    return {"shard": row["item"], "sums": sums_N[row_R].tolist()}


def _measure_stream(plan: Plan, train: Selection) -> Statistics:
    """Measure mean and standard deviation of training records that are not held in memory."""
    shards = np.unique(train.shard_N).tolist()
    rows = map_items(partial(_sum_item, plan=plan, train=Places.of(train)), shards)
    sums = [pair for row in rows for pair in np.asarray(row["sums"]).reshape(-1, 2).tolist()]
    return statistics(sums, int(_lengths(plan, train).sum()) * len(plan.signal.lead_names))


def _sum_item(row: dict[str, Any], plan: Plan, train: Places) -> dict[str, Any]:
    plan.fetch(row["item"])
    mask = train.shard_N == row["item"]
    ecg_RLT = decode(plan, row["item"], train.row_N[mask], train.length_N[mask])
    return {"sums": record_sums(ecg_RLT).reshape(-1).tolist()}


def _gather_all(
    plan: Plan, selections: Mapping[str, Selection], stats: Statistics | None
) -> tuple[dict[str, ray.ObjectRef[np.ndarray]], Statistics | None]:
    """Return an array a role, in the object store, and the statistics that they are standardised with."""
    if not selections:
        return {}, stats
    # No CPU: the task copies, and must not wait for processes that hold all of them. Its results lie where it ran.
    task = ray.remote(num_cpus=0, num_returns=len(selections) + 1)(gather).options(scheduling_strategy=on_this_node())
    lengths = {role: _lengths(plan, selection) for role, selection in selections.items()}
    results: Any = task.remote(_decode_blocks(plan, selections), plan.signal, lengths, is_global(plan.steps), stats)
    *arrays, measured = results
    return dict(zip(selections, arrays, strict=True)), ray.get(measured)


def _decode_blocks(plan: Plan, selections: Mapping[str, Selection]) -> ray.data.Dataset:
    """Return what decodes the records of all roles in one pass over the shards, as `role`, `position` and `ecg`."""
    places = {role: Places.of(selection) for role, selection in selections.items()}
    shards = sorted({shard for each in places.values() for shard in np.unique(each.shard_N).tolist()})
    with quiet_ray_data():
        return dataset_of(shards).map_batches(
            partial(_decode_batch, plan=plan, places=places), batch_size=None, batch_format="numpy"
        )


def _decode_batch(batch: dict[str, Any], plan: Plan, places: Mapping[str, Places]) -> Iterator[dict[str, Any]]:
    for shard in batch["item"].tolist():
        plan.fetch(shard)
        for role, each in places.items():
            position_R = np.flatnonzero(each.shard_N == shard)
            if len(position_R):
                yield {
                    "role": np.full(len(position_R), role),
                    "position": position_R,
                    "ecg": decode(plan, shard, each.row_N[position_R], each.length_N[position_R]),
                }


def gather(
    decoded: ray.data.Dataset,
    signal: Signal,
    lengths: Mapping[str, NDArray[np.int32]],
    is_standardised: bool,
    stats: Statistics | None,
) -> Iterator[NDArray[np.float32] | Statistics | None]:
    """Yield an array a role, its records at their positions, and last the statistics; runs as a task.

    Args:
        decoded: blocks of `role`, `position` and `ecg`.
        lengths: role -> timesteps of each record.
        is_standardised: whether the records are standardised, with `stats` or, without them, with the statistics
            of the training records among them.
    """
    shape = (len(signal.lead_names), signal.n_timesteps)
    arrays = {role: np.empty((len(length_N), *shape), np.float32) for role, length_N in lengths.items()}
    n_copied = dict.fromkeys(arrays, 0)
    for block in decoded.iter_batches(batch_size=None, batch_format="numpy"):
        for role, ecg_NLT in arrays.items():
            mask_R = block["role"] == role
            ecg_NLT[block["position"][mask_R]] = block["ecg"][mask_R]
            n_copied[role] += int(mask_R.sum())
    assert n_copied == {role: len(ecg_NLT) for role, ecg_NLT in arrays.items()}, n_copied
    if is_standardised:
        if stats is None:
            stats = statistics(record_sums(arrays["train"]).tolist(), int(lengths["train"].sum()) * shape[0])
        for role, ecg_NLT in arrays.items():
            stats.standardise(ecg_NLT, lengths[role])
    for role in list(arrays):
        yield arrays.pop(role)  # it goes to the object store, and its memory here is free before the next one's turn
    yield stats


def _lengths(plan: Plan, selection: Selection) -> NDArray[np.int32]:
    return output_lengths(plan.steps, plan.stored_signal, selection.length_N)


def _n_bytes(plan: Plan, selection: Selection) -> int:
    return len(selection) * _n_values(plan) * 4


def _n_values(plan: Plan) -> int:
    return len(plan.signal.lead_names) * plan.signal.n_timesteps


def _memory_limit() -> float:
    """Return the bytes that may be used on the smallest node; every node that trains holds its own copy."""
    nodes: list[dict[str, Any]] = ray.nodes()
    resources: dict[str, float] = ray.available_resources()
    totals: list[float] = [node["Resources"].get("object_store_memory", 0) for node in nodes if node["Alive"]]
    available = resources.get("object_store_memory", 0)
    return STORE_SHARE * min(*totals, available / len(totals))
