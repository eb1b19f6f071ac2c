"""One meter of a trial's peak memory, the same for every method."""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType

import psutil
import torch

SAMPLE_EVERY_S = 0.02  # a step of training takes longer; a look costs 20 us


class PeakMemory:
    """Measure the peak memory in bytes between entering and `peak_bytes`.

    On CUDA: what the allocator held for tensors at most. On a CPU: the process's private resident memory above
    its level on entering, looked at every 20 ms; arrays that trials share are not counted. Trials follow one
    another in a process, so memory that the last one freed is first given back to the system: it would
    otherwise hide the next trial's use.

    Args:
        held_bytes: what the trial already holds on entering (its model), added to a CPU's figure.
    """

    def __init__(self, device: torch.device, held_bytes: int = 0) -> None:
        self._device, self._held_bytes = device, held_bytes
        self._start_bytes = self._peak_bytes = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return self
        _give_back_freed_memory()
        self._start_bytes = self._peak_bytes = private_bytes()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._sampler.is_alive():
            self._sampler.join()

    @property
    def peak_bytes(self) -> int:
        """The peak so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        self._peak_bytes = max(self._peak_bytes, private_bytes())
        return self._peak_bytes - self._start_bytes + self._held_bytes

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self._peak_bytes = max(self._peak_bytes, private_bytes())


def private_bytes() -> int:
    """Return the process's resident memory without what it shares; macOS does not tell the two apart."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _give_back_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc; other libraries give memory back by themselves
        libc.malloc_trim(0)
