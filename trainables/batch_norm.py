"""Batch norm where a pass sees less than a batch: frozen, or with the statistics of a whole batch seen in chunks.

B: records, L: leads, T: timesteps, C: channels. Layer norm knows no batch and needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.ranks import sum_over_ranks

Apply = Callable[[Tensor], Tensor]


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers of batch norm in `model`."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def frozen(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Let `norms` use their running statistics, and leave these as they are."""
    trained = [norm for norm in norms if norm.training]
    for norm in trained:
        norm.eval()
    try:
        yield
    finally:
        for norm in trained:
            norm.train()


@contextmanager
def fitting(model: nn.Module, n_records: int) -> Iterator[None]:
    """Let batch norm use its running statistics for a piece that is too small to have any."""
    norms = [norm for norm in norms_of(model) if not isinstance(norm, nn.SyncBatchNorm)]
    with frozen(norms if n_records < 2 else []):
        yield


def in_chunks(apply: Apply, ecg_BLT: Tensor, chunk: int) -> Tensor:
    """Return `apply(ecg_BLT)`, from chunks of so many records; no records go through as they are."""
    return torch.cat([apply(piece_BLT) for piece_BLT in torch.split(ecg_BLT, chunk)])


class Statistics(NamedTuple):
    """What a layer of batch norm knows of its input."""

    mean_C: Tensor
    variance_C: Tensor


class WholeBatchNorm:
    """Runs evaluations of a batch in chunks, each layer of batch norm with the statistics of the whole batch.

    A layer's statistics need the layers before it to have theirs, so the chunks go through the network once for each
    layer, up to it, and then once to the end: more time, and no more memory than a chunk takes. One chunk on one rank
    goes through once.

    The running statistics move once a step, by the mean over the step's evaluations: of those at theta + eps z and
    theta - eps z the perturbation cancels to first order.

    Args:
        norms: in the order in which they run, in eval mode while they do.
        chunk: records of a pass.
    """

    def __init__(self, norms: Sequence[_BatchNorm], chunk: int, world_size: int) -> None:
        self._norms, self._chunk, self._world_size = norms, chunk, world_size
        self._seen: list[list[Statistics]] = []  # of each evaluation of the step: what each layer's would move to

    def evaluate(self, apply: Apply, ecg_BLT: Tensor) -> Tensor:
        """Return `apply(ecg_BLT)`; the layers keep their running statistics."""
        kept = [_running(norm) for norm in self._norms]
        meters = [_Meter(norm, self._world_size) for norm in self._norms]
        try:
            if self._world_size == 1 and len(ecg_BLT) <= self._chunk:
                return self._at_once(apply, ecg_BLT, meters)
            for meter in meters:
                self._measure(apply, ecg_BLT, meter)
            return in_chunks(apply, ecg_BLT, self._chunk)
        finally:
            self._seen.append([meter.unbiased() for meter in meters])
            for norm, statistics in zip(self._norms, kept, strict=True):
                _set_running(norm, statistics)

    def end_step(self) -> None:
        """Move the running statistics as one training pass over the batch would have; none without an evaluation."""
        if not self._seen:
            return
        for norm, *seen in zip(self._norms, *self._seen, strict=True):
            assert norm.momentum is not None
            new = Statistics(*(torch.stack(each).mean(dim=0) for each in zip(*seen, strict=True)))
            pairs = zip(_running(norm), new, strict=True)
            _set_running(norm, Statistics(*(old_C.lerp(new_C, norm.momentum) for old_C, new_C in pairs)))
        self._seen = []

    def _at_once(self, apply: Apply, ecg_BLT: Tensor, meters: Sequence[_Meter]) -> Tensor:
        def use(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            meter = meters[self._norms.index(norm)]
            meter.add(inputs[0])
            meter.apply()

        hooks = [norm.register_forward_pre_hook(use) for norm in self._norms]
        try:
            return apply(ecg_BLT)
        finally:
            for hook in hooks:
                hook.remove()

    def _measure(self, apply: Apply, ecg_BLT: Tensor, meter: _Meter) -> None:
        """Let one layer see the whole batch; the layers before it have their statistics."""

        def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            meter.add(inputs[0])
            raise _Reached

        hook = meter.norm.register_forward_pre_hook(add)
        try:
            for piece_BLT in torch.split(ecg_BLT, self._chunk):
                try:
                    apply(piece_BLT)
                except _Reached:
                    continue
        finally:
            hook.remove()
        meter.apply()


class _Reached(Exception):  # noqa: N818  (ends a pass at the layer that is measured; not an error)
    pass


class _Meter:
    """Adds up what one layer sees of a batch, over chunks and ranks."""

    def __init__(self, norm: _BatchNorm, world_size: int) -> None:
        self.norm, self._world_size = norm, world_size
        # (values a channel, sum, sum of squares), in float64: the mean square minus the squared mean cancels
        self._sums_3C = _running(norm).mean_C.new_zeros((3, norm.num_features), dtype=torch.float64)

    def add(self, x_BCT: Tensor) -> None:
        if x_BCT.numel() == 0:
            return
        over = [axis for axis in range(x_BCT.ndim) if axis != 1]
        variance_C, mean_C = (each_C.double() for each_C in torch.var_mean(x_BCT.float(), dim=over, correction=0))
        n_C = torch.full_like(mean_C, x_BCT.numel() / x_BCT.shape[1])
        self._sums_3C += torch.stack([n_C, n_C * mean_C, n_C * (variance_C + mean_C.square())])

    def apply(self) -> None:
        """Give the layer the statistics of all that was added."""
        self._sums_3C = sum_over_ranks(self._sums_3C, self._world_size)
        _set_running(self.norm, self._statistics(correction=0))

    def unbiased(self) -> Statistics:
        """Return the statistics that a training pass moves the running ones to."""
        return self._statistics(correction=1)

    def _statistics(self, correction: int) -> Statistics:
        n_C, sum_C, squares_C = self._sums_3C
        mean_C = sum_C / n_C
        variance_C = (squares_C - sum_C * mean_C) / (n_C - correction).clamp(min=1)
        return Statistics(mean_C.float(), variance_C.clamp(min=0).float())


def _running(norm: _BatchNorm) -> Statistics:
    assert norm.running_mean is not None and norm.running_var is not None
    return Statistics(norm.running_mean.clone(), norm.running_var.clone())


def _set_running(norm: _BatchNorm, statistics: Statistics) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(statistics.mean_C)
    norm.running_var.copy_(statistics.variance_C)
