"""Meters of a trial's peak memory, the same for every method: what its tensors take, and what its process takes."""

from __future__ import annotations

import ctypes
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.repeating import repeating

SAMPLE_EVERY_S = 0.02  # a step of training takes longer; a look costs 20 us


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of the tensors alive, by their storages, as operations take and make them.

    A storage counts once, however many views it has, from the first operation that meets it until nobody holds it any
    more: a weak reference tells. So passes without gradient count, and what autograd keeps. Fake tensors count as the
    ones that they stand for. What a kernel needs inside one operation is not seen.

    Args:
        held: tensors that are there already.
    """

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in held:
            self._meet(tensor)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        self._meet_all((*args, *kwargs.values()))
        made = func(*args, **kwargs)
        self._meet_all((made,))
        return made

    def _meet_all(self, values: Iterable[Any]) -> None:
        """Meet the tensors among an operation's values, and in lists of them."""
        for value in values:
            if isinstance(value, Tensor):
                self._meet(value)
            elif isinstance(value, list | tuple):
                self._meet_all(value)

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        n_bytes = storage.nbytes()

        def forget(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._alive[key]
            self.live_bytes -= n_bytes

        self._alive[key] = weakref.ref(storage, forget)
        self.live_bytes += n_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


class ProcessMemory:
    """Watch the process's private resident memory above its level on entering, every 20 ms.

    Arrays that trials share are not counted. Trials follow one another in a process, so memory that the last one freed
    is first given back to the system: it would otherwise hide the next trial's use.
    """

    def __init__(self) -> None:
        self._start_bytes = self._peak_bytes = 0
        self._sampling = repeating(self._sample, SAMPLE_EVERY_S, "peak-memory")

    def __enter__(self) -> ProcessMemory:
        _give_back_freed_memory()
        self._start_bytes = self._peak_bytes = private_bytes()
        self._sampling.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampling.__exit__(kind, error, trace)

    @property
    def peak_bytes(self) -> int:
        """The peak so far."""
        self._sample()
        return self._peak_bytes - self._start_bytes

    def _sample(self) -> None:
        self._peak_bytes = max(self._peak_bytes, private_bytes())


class PeakMemory:
    """Measure a trial between entering and looking: the peak of its tensors, and of its process.

    The tensors' peak is that of CUDA's allocator on a GPU, and on a CPU of `LiveTensors` within `counting`.

    Args:
        held: the tensors that the trial holds on entering: its model.
    """

    def __init__(self, device: torch.device, held: Iterable[Tensor] = ()) -> None:
        self._device = device
        self._tensors = LiveTensors(held if device.type == "cpu" else ())
        self._process = ProcessMemory()
        self._times: Counter[str] = Counter()
        self._held_bytes = self._tensors.live_bytes

    def __enter__(self) -> PeakMemory:
        self._process.__enter__()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.__exit__(kind, error, trace)

    @contextmanager
    def counting(self, work: str) -> Iterator[None]:
        """Count the tensors of a piece of work, the first time that it is done, the second, the fourth, the eighth ...

        Counting costs some 10 us an operation, and one step of training is like another: but the first lacks the
        optimiser's averages, and a method may begin to train more of its parameters later on.

        Args:
            work: what is done, such as a step of training or a validation.
        """
        self._times[work] += 1
        is_counted = self._device.type == "cpu" and self._times[work].bit_count() == 1
        with self._tensors if is_counted else nullcontext():
            yield

    @property
    def peak_bytes(self) -> int:
        """The peak of the tensors so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return self._tensors.peak_bytes

    @property
    def process_peak_bytes(self) -> int:
        """The peak of the process so far, above its level on entering, and what the trial held then on a CPU."""
        return self._process.peak_bytes + self._held_bytes


def private_bytes() -> int:
    """Return the process's resident memory without what it shares; macOS does not tell the two apart."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def _give_back_freed_memory() -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc; other libraries give memory back by themselves
        libc.malloc_trim(0)
