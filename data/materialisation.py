"""Preparing a data set once for a whole cluster, through Ray Data.

Ray Data decodes and preprocesses the shards in parallel into blocks; then one task a role copies its records out of the
blocks into one array, which is its result and so lies in the object store, owned by the driver but never in the
driver's memory. The blocks are released: in steady state there is one copy of the data on a node. While they are
copied there are two in the object store, which is why at most 40 % of it are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from data.parallel import dataset_of, map_items, quiet_ray_data
from data.preprocess import Statistics, is_global, record_sums, statistics
from data.selection import Plan, Selection, decode
from data.sharing import SharedDataset, SharedSplit
from data.store import CorruptShard, verify_shard

STORE_SHARE = 0.4  # of the available object store


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
    blocks = _decode_blocks(plan, {role: selections[role] for role in held})
    stats = None
    if is_global(plan.steps):
        if "train" in held:
            stats = ray.get(ray.remote(num_cpus=0)(measure).remote(blocks, len(selections["train"])))
        else:
            stats = _measure_stream(plan, selections.get("train") or select_role(plan, checked, "train"))
    arrays = _gather_all(plan, blocks, {role: selections[role] for role in held}, stats)
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
    try:
        verify_shard(plan.store, plan.shards[row["item"]])
    except CorruptShard as error:
        return {"index": row["index"], "error": str(error)}
    return {"index": row["index"], "error": ""}


def _measure_stream(plan: Plan, train: Selection) -> Statistics:
    """Measure mean and standard deviation of training records that are not held in memory."""
    shards = np.unique(train.shard_N).tolist()
    rows = map_items(partial(_sum_item, plan=plan, shard_N=train.shard_N, row_N=train.row_N), shards)
    sums = [pair for row in rows for pair in np.asarray(row["sums"]).reshape(-1, 2).tolist()]
    return statistics(sums, _n_values(plan))


def _sum_item(row: dict[str, Any], plan: Plan, shard_N: NDArray[np.int64], row_N: NDArray[np.int64]) -> dict[str, Any]:
    ecg_RLT = decode(plan, row["item"], row_N[shard_N == row["item"]])
    return {"sums": record_sums(ecg_RLT).reshape(-1).tolist()}


def _decode_blocks(plan: Plan, selections: Mapping[str, Selection]) -> list[ray.ObjectRef[pa.Table]]:
    """Decode the records of all roles in one pass over the shards; blocks have `role`, `position` and `ecg`."""
    places = {role: (selection.shard_N, selection.row_N) for role, selection in selections.items()}
    shards = sorted({shard for shard_N, _ in places.values() for shard in np.unique(shard_N).tolist()})
    if not shards:
        return []
    with quiet_ray_data():
        decoded = dataset_of(shards).map_batches(
            partial(_decode_batch, plan=plan, places=places), batch_size=None, batch_format="numpy"
        )
        return list(decoded.materialize().to_arrow_refs())


def _decode_batch(
    batch: dict[str, Any], plan: Plan, places: Mapping[str, tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> Iterator[dict[str, Any]]:
    for shard in batch["item"].tolist():
        for role, (shard_N, row_N) in places.items():
            position_R = np.flatnonzero(shard_N == shard)
            if len(position_R):
                yield {
                    "role": np.full(len(position_R), role),
                    "position": position_R,
                    "ecg": decode(plan, shard, row_N[position_R]),
                }


def _gather_all(
    plan: Plan,
    blocks: Sequence[ray.ObjectRef[pa.Table]],
    selections: Mapping[str, Selection],
    stats: Statistics | None,
) -> dict[str, ray.ObjectRef[np.ndarray]]:
    """Start a task a role that gathers it, and wait, so that the blocks can be released."""
    shape = (len(plan.signal.lead_names), plan.signal.n_timesteps)
    # No CPU: they copy, and must not wait for processes that hold all of them.
    task = ray.remote(num_cpus=0)(gather)
    arrays = {
        role: task.remote(blocks, role, (len(selection), *shape), stats) for role, selection in selections.items()
    }
    if arrays:
        ray.wait([*arrays.values()], num_returns=len(arrays), fetch_local=False)
    return arrays


def gather(
    blocks: Sequence[ray.ObjectRef[pa.Table]], role: str, shape: tuple[int, ...], stats: Statistics | None
) -> NDArray[np.float32]:
    """Copy the records of `role` out of the blocks to their positions in one array; runs as a task."""
    ecg_NLT = np.empty(shape, np.float32)
    n_copied = 0
    for position_R, ecg_RLT in _parts(blocks, role):
        ecg_NLT[position_R] = ecg_RLT
        n_copied += len(position_R)
    assert n_copied == len(ecg_NLT), (role, n_copied, len(ecg_NLT))
    if stats is not None:
        stats.standardise(ecg_NLT)
    return ecg_NLT


def measure(blocks: Sequence[ray.ObjectRef[pa.Table]], n_records: int) -> Statistics:
    """Measure mean and standard deviation of the training records in the blocks; runs as a task."""
    sums: list[list[float]] = []
    n_values = 0
    for _, ecg_RLT in _parts(blocks, "train"):
        sums += record_sums(ecg_RLT).tolist()
        n_values = ecg_RLT[0].size
    assert len(sums) == n_records, (len(sums), n_records)
    return statistics(sums, n_values)


def _parts(
    blocks: Sequence[ray.ObjectRef[pa.Table]], role: str
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield positions and signal of the records of `role`, block by block."""
    for block in blocks:
        table = ray.get(block)  # zero-copy, one at a time: blocks of other nodes are fetched
        roles, position_R = np.array(table["role"].to_pylist()), table["position"].to_numpy()
        start = 0
        for chunk in table["ecg"].chunks:
            mask = roles[start : start + len(chunk)] == role
            if mask.any():
                yield position_R[start : start + len(chunk)][mask], chunk.to_numpy_ndarray()[mask]
            start += len(chunk)


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
