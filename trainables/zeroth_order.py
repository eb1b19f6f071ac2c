"""Gradients from losses alone: simultaneous perturbation (SPSA: Spall 1992, IEEE TAC 37(3), equation 2.2).

Along a direction z ~ N(0, I) the loss rises by p = (L(theta + eps z) - L(theta - eps z)) / (2 eps), or, one-sided, by
p = (L(theta + eps z) - L(theta)) / eps; p z is an estimate of the gradient. z is drawn anew from its seed whenever it
is wanted (MeZO: Malladi et al. 2023, arXiv:2305.17333, algorithm 1), so no direction is ever held in memory, only the
parameters' own values: putting these back is exact, where adding and subtracting eps z is not.

Q: queries (directions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Direction:
    """A direction over several parameters, by its seed.

    Attributes:
        masks: of each parameter, what of it the direction touches; None: everything.
    """

    seed: int
    masks: Sequence[Tensor] | None = None

    def draw(self, parameters: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield z of each parameter: the same ones for the same seed, shapes and kind of device."""
        generator = torch.Generator(parameters[0].device).manual_seed(self.seed)
        for number, parameter in enumerate(parameters):
            z = torch.randn(parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
            yield z if self.masks is None else z * self.masks[number]


@torch.no_grad()
def slopes(
    evaluate: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    directions: Sequence[Direction],
    eps: float,
    *,
    two_sided: bool = True,
) -> Tensor:
    """Return p_Q, the slope of `evaluate()` along each direction; the parameters keep their values, bit for bit.

    Args:
        evaluate: returns the loss at the parameters' values of the moment, a scalar.
    """
    kept = [parameter.clone() for parameter in parameters]

    def loss_at(direction: Direction, step: float) -> Tensor:
        for parameter, value, z in zip(parameters, kept, direction.draw(parameters), strict=True):
            torch.add(value, z, alpha=step, out=parameter)
        return evaluate().double()

    try:
        if two_sided:
            rises = [(loss_at(each, eps) - loss_at(each, -eps)) / (2 * eps) for each in directions]
        else:
            here = evaluate().double()
            rises = [(loss_at(each, eps) - here) / eps for each in directions]
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return torch.stack(rises).float()


def gradient(parameters: Sequence[Tensor], directions: Sequence[Direction], p_Q: Tensor) -> list[Tensor]:
    """Return the estimate of each parameter's gradient: the mean over the directions of p z."""
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for direction, p in zip(directions, p_Q, strict=True):
        for total, z in zip(sums, direction.draw(parameters), strict=True):
            total.add_(p.to(total.dtype) / len(directions) * z)
    return sums


def predicted_slopes(gradients: Sequence[Tensor], directions: Sequence[Direction]) -> Tensor:
    """Return p_Q as `gradients` would have it: their inner product with each direction."""
    return torch.stack(
        [
            torch.stack([(g * z).sum() for g, z in zip(gradients, direction.draw(gradients), strict=True)]).sum()
            for direction in directions
        ]
    )
