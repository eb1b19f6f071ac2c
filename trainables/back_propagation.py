"""The step of most methods: back-propagation of the criterion, over ranks and in pieces.

B: records of a rank's share of a batch, L: leads, T: timesteps, K: outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables.batch_norm import fitting
from trainables.config import TrainConfig
from trainables.ranks import across_ranks, sum_over_ranks
from trainables.step import Step
from trainables.trial import Trial


class SummedLoss(Protocol):
    """A loss as a sum over records, and what to divide it by; see `trainables.losses.Criterion`."""

    def total(self, logits_BK: Tensor, targets_BK: Tensor, /) -> Tensor: ...
    def weight(self, targets_BK: Tensor, /) -> Tensor: ...


class BackPropagation(Step):
    """Follows the mean loss over the whole batch, however it is cut into ranks and pieces."""

    def __init__(self, model: nn.Module, criterion: SummedLoss, config: TrainConfig, trial: Trial) -> None:
        self._model, self._criterion, self._config = model, criterion, config
        self._world_size = trial.world_size
        self._forward = across_ranks(model, trial)

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        config, criterion = self._config, self._criterion
        weight = criterion.weight(targets_BJ)
        # DDP averages the ranks' gradients: times world_size gives their sum, over the weight of the whole batch.
        scale = self._world_size / sum_over_ranks(weight, self._world_size).clamp(min=1e-12)
        loss = torch.zeros((), device=ecg_BLT.device)
        for piece, is_last in _pieces(ecg_BLT, targets_BJ, config.accumulate_steps, self._world_size):
            with _gradients_stay_here(self._forward, unless=is_last), fitting(self._model, len(piece[0])):
                with torch.autocast(ecg_BLT.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    logits_BK = self._forward(piece[0])
                piece_loss = criterion.total(logits_BK.float(), piece[1])
                (piece_loss * scale).backward()  # type: ignore[no-untyped-call]
            loss += piece_loss.detach()
        return torch.stack([loss, weight])


def _pieces(
    ecg_BLT: Tensor, targets_BK: Tensor, n_pieces: int, world_size: int
) -> Iterator[tuple[tuple[Tensor, Tensor], bool]]:
    """Cut a rank's share of a batch into pieces, with whether each is the last.

    Several ranks run the same number of pieces, empty ones too, or they would wait for one another for ever.
    """
    pieces = list(zip(ecg_BLT.tensor_split(n_pieces), targets_BK.tensor_split(n_pieces), strict=True))
    if world_size == 1:
        pieces = [piece for piece in pieces if len(piece[0])]
    for number, piece in enumerate(pieces, start=1):
        yield piece, number == len(pieces)


def _gradients_stay_here(forward: nn.Module, unless: bool) -> AbstractContextManager[None]:
    """Put off the exchange of gradients between ranks to the last piece of a batch."""
    if unless or not isinstance(forward, DistributedDataParallel):
        return nullcontext()
    local: AbstractContextManager[None] = forward.no_sync()
    return local
