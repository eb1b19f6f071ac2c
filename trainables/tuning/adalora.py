"""AdaLoRA in the shared trainer (Zhang et al. 2023, arXiv:2303.10512): `peft` leaves its steps to the training loop.

The adapters begin with 1.5 ranks a layer. From a tenth of the training on the least important singular values are set
to zero, on a cubic schedule (equation 12), until `rank` a layer are left, over all layers together; the last 30 % train
what is left. Singular vectors are kept near orthogonal by a penalty (equation 4).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.tuning.peft_types import ADAPTER

WARM_UP, FINAL = 0.1, 0.3  # shares of the steps
N_ALLOCATIONS = 100  # in a training; each sorts the importance of all singular values
PENALTY = 0.1  # of the orthogonality, gamma in equation 4


class RankAllocation:
    """Moves the rank budget between the layers of a network with AdaLoRA's adapters.

    Args:
        config: the `peft` configuration that the adapters were made with.
    """

    def __init__(self, network: nn.Module, config: Any) -> None:
        from peft.tuners.adalora.layer import RankAllocator

        self._network, self._config = network, config
        self._allocator: Any = RankAllocator(network, config, ADAPTER)  # type: ignore[no-untyped-call]
        self._pattern: dict[str, list[bool]] | None = None  # which singular values are left, once that is settled

    def penalise(self) -> None:
        """Add the gradient of the orthogonality penalty."""
        vectors = {
            name: parameter
            for name, parameter in self._network.named_parameters()
            if "lora_A" in name or "lora_B" in name
        }
        distances = [_distance_to_orthogonal(p if "lora_A" in name else p.T) for name, p in vectors.items()]
        penalty = PENALTY * torch.stack(distances).mean()
        for parameter, gradient in zip(
            vectors.values(), torch.autograd.grad(penalty, [*vectors.values()]), strict=True
        ):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def allocate(self, step: int, n_steps: int) -> None:
        """Take the step's gradients into the importances, and mask by them."""
        config = self._config
        config.total_step, config.tinit, config.tfinal = n_steps, int(WARM_UP * n_steps), int(FINAL * n_steps)
        config.deltaT = max(1, n_steps // N_ALLOCATIONS)
        last_allocation = n_steps - config.tfinal
        if step < last_allocation:
            self._allocator.update_and_allocate(self._network, step)
        elif step == last_allocation:
            _, self._pattern = self._allocator.update_and_allocate(self._network, step, force_mask=True)
        else:
            self._allocator.mask_using_rank_pattern(self._network, self._pattern)

    def state(self) -> dict[str, Any]:
        allocator = self._allocator
        importances = {name: dict(getattr(allocator, name)) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")}
        return {**importances, "pattern": self._pattern}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("ipt", "exp_avg_ipt", "exp_avg_unc"):
            own = dict(self._network.named_parameters())
            setattr(self._allocator, name, {key: value.to(own[key].device) for key, value in state[name].items()})
        self._pattern = state["pattern"]


def _distance_to_orthogonal(vectors_RD: Tensor) -> Tensor:
    gram_RR = vectors_RD @ vectors_RD.T
    distance: Tensor = torch.linalg.matrix_norm(gram_RR - torch.eye(len(gram_RR), device=gram_RR.device))
    return distance
