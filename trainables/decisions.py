"""The way from the scheduler, on the driver, to a trial that is training somewhere on the cluster.

Ray's own way to stop a trial is to kill it. Here the scheduler posts its verdict on each report, and the
trial reads it before the next epoch, so that it ends by itself, with its state saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import ray
from ray.actor import ActorHandle

from data.this_node import on_this_node

Verdict = Literal["continue", "stop", "interrupt"]


class Decisions:
    """A mailbox with one verdict for every report; runs as an actor that takes no CPU."""

    def __init__(self) -> None:
        self._verdicts: dict[tuple[str, int], asyncio.Future[Verdict]] = {}

    def _slot(self, trial: str, epoch: int) -> asyncio.Future[Verdict]:
        return self._verdicts.setdefault((trial, epoch), asyncio.get_running_loop().create_future())

    async def post(self, trial: str, epoch: int, verdict: Verdict) -> None:
        """Answer the report of `trial` after `epoch`; a second answer to the same report is dropped."""
        slot = self._slot(trial, epoch)
        if not slot.done():
            slot.set_result(verdict)

    async def answer(self, trial: str, epoch: int) -> Verdict:
        """Wait for the answer to the report of `trial` after `epoch`, and take it out."""
        verdict = await self._slot(trial, epoch)
        self._verdicts.pop((trial, epoch), None)
        return verdict


@contextmanager
def running_decisions() -> Iterator[ActorHandle[Any]]:
    """Run a mailbox beside this process, for trials on any node of its cluster."""
    actor = ray.remote(Decisions).options(num_cpus=0, max_concurrency=1000, scheduling_strategy=on_this_node())
    handle: Any = actor.remote()
    try:
        yield handle
    finally:
        ray.kill(handle)  # Tune's registry keeps a handle, so it would live as long as the cluster
