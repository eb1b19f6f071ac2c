"""The processes that train one model together: rank 0 to world_size - 1. With one process all of this does nothing."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.trial import Trial


def sum_over_ranks(tensor: Tensor, world_size: int) -> Tensor:
    """Return the sum of every rank's `tensor`, on every rank."""
    if world_size == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def share_buffers(model: nn.Module, world_size: int) -> None:
    """Give every rank the buffers of rank 0: the statistics of batch norm, which each rank updates by itself."""
    if world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def synchronise_batch_norm(model: nn.Module, trial: Trial) -> nn.Module:
    """Return `model` with batch norm over all ranks where they are GPUs; on CPUs torch has none, each rank is alone."""
    if trial.world_size == 1 or trial.device.type != "cuda":
        return model
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return synchronised


def across_ranks(model: nn.Module, trial: Trial) -> nn.Module:
    """Return the module to train: `model` itself, or wrapped so that its gradients are averaged over the ranks."""
    if trial.world_size == 1:
        return model
    assert dist.is_initialized() and dist.get_world_size() == trial.world_size
    device_ids = [trial.device] if trial.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=device_ids)
