"""Map a function over items with Ray Data, without its progress bars and log lines."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from numpy.typing import NDArray
from ray._private import ray_constants

MOST_LOCAL_CPUS = 4  # each worker process costs some 200 MB; who wants more starts Ray before


@contextmanager
def running_ray(n_tasks: int) -> Iterator[None]:
    """Use the Ray that the caller runs, or start a local one for `n_tasks` tasks and shut down only that."""
    if ray.is_initialized():
        yield
        return
    ray_constants.ENABLE_RAY_CLUSTER = False  # nothing listens beyond the loopback; Ray's default on other systems
    # Ingestion needs little of the object store, as its tasks write files; the dashboard serves nobody here.
    ray.init(
        address="local",
        num_cpus=max(1, min(len(os.sched_getaffinity(0)), n_tasks, MOST_LOCAL_CPUS)),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 1024**2,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def quiet_ray_data() -> Iterator[None]:
    """Silence Ray Data for data sets that are made inside; its settings come back afterwards."""
    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])


def map_items(function: Callable[[dict[str, Any]], dict[str, Any]], items: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield `function({"item": item, "index": index})` of every item as tasks finish, in any order.

    `function` is a module-level function of `data` or a `functools.partial` of one, so that workers find it.
    """
    with quiet_ray_data():
        yield from dataset_of(items).map(function).iter_rows()


def stream_items(
    function: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
    items: Sequence[Any],
    num_cpus: float = 1,
    num_gpus: float = 0,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what `function` makes of the columns `index` and `item` of every item, a task each: columns of some rows.

    Rows come in any order, and not as they were yielded together.

    Args:
        num_cpus, num_gpus: of the task of each item.
    """
    with quiet_ray_data():
        mapped = dataset_of(items).map_batches(
            function,  # type: ignore[arg-type]
            batch_size=None,
            batch_format="numpy",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        yield from mapped.iter_batches(batch_size=None, batch_format="numpy")  # type: ignore[misc]


def dataset_of(items: Sequence[Any]) -> ray.data.Dataset:
    """Return a Ray data set of one item a task."""
    rows = [{"index": index, "item": item} for index, item in enumerate(items)]
    return ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
