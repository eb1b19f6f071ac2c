"""How much memory a sweep takes on its node, each page counted once.

The object store is one shared file. A page of it counts in the PSS of whoever has touched it, and not at
all when nobody who is alive has; the file also keeps the pages of objects that are gone. So its mappings
are left out of the processes' PSS, and the store's own account of its objects is added instead.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil
import ray

from data.repeating import repeating

STORE_FILE: Final = "/dev/shm/plasma"
IDLE: Final = "ray::IDLE"  # a worker without work, which Ray ends by itself
SAMPLE_EVERY_S: Final = 0.5


@dataclass(frozen=True)
class NodeMemory:
    """One look at a sweep's memory.

    Attributes:
        processes_bytes: PSS of the driver and everything that it started, without the object store's pages.
        driver_bytes: the driver's resident memory, shared pages included.
        objects_bytes: objects in the object store.
        store_file_bytes: pages that the object store's file holds, those of objects that are gone included.
    """

    time_s: float
    processes_bytes: int
    driver_bytes: int
    objects_bytes: int
    store_file_bytes: int


@contextmanager
def sampled(path: Path) -> Iterator[None]:
    """Look at this process's sweep in a thread until the context ends; write a JSON line a look to `path`."""
    with path.open("w", encoding="utf-8") as file:

        def sample() -> None:
            if ray.is_initialized():
                file.write(json.dumps(asdict(read_node_memory())) + "\n")
                file.flush()

        with repeating(sample, SAMPLE_EVERY_S, "node-memory"):
            yield


def read_samples(path: Path) -> list[NodeMemory]:
    """Read what `sampled` wrote."""
    return [NodeMemory(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def read_node_memory() -> NodeMemory:
    """Look at this process, its descendants and the object store of the Ray that it runs."""
    driver = psutil.Process()
    pids = [process.pid for process in [driver, *driver.children(recursive=True)] if not _is_idle(process)]
    total, free = (
        resources.get("object_store_memory", 0.0) for resources in (ray.cluster_resources(), ray.available_resources())
    )
    processes_bytes, driver_bytes = sum(map(pss_bytes, pids)), int(driver.memory_info().rss)
    return NodeMemory(time.time(), processes_bytes, driver_bytes, int(total - free), _store_file_bytes(pids))


def pss_bytes(pid: int) -> int:
    """Return the PSS of a process without the object store; 0 if it has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    total_kb, counts = 0, True
    for line in lines:
        key, _, rest = line.partition(" ")
        if not key.endswith(":"):  # the first line of a mapping: its addresses and its file
            counts = STORE_FILE not in rest
        elif key == "Pss:" and counts:
            total_kb += int(rest.split()[0])
    return 1024 * total_kb


def _is_idle(process: psutil.Process) -> bool:
    try:
        return IDLE in process.cmdline()
    except psutil.NoSuchProcess:
        return True


def _store_file_bytes(pids: list[int]) -> int:
    """Return what the object store's file holds; it has no name any more, but processes keep it open."""
    sizes = [_open_store_bytes(pid) for pid in pids]
    return max(sizes, default=0)


def _open_store_bytes(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    try:
        opened = [path for path in folder.iterdir() if str(path.readlink()).startswith(STORE_FILE)]
        return max((512 * os.stat(path).st_blocks for path in opened), default=0)
    except (FileNotFoundError, ProcessLookupError):
        return 0
