"""Which entries of each parameter a sparse zeroth-order gradient touches.

An entry's score decides: `uniform` draws one, `magnitude` is |w|, `activation` is |w| times the norm of the input that
the entry meets (Wanda: Sun et al. 2023, arXiv:2306.11695, equation 1). The highest scores of each tensor stay, exactly
as many as the density says; ties, such as among zeros, are broken at random.

B: records, T: timesteps, I: inputs, O: outputs, P: parts of an output, R: rank of a LoRA update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trainables.lora import LoraConv1d, LoraLinear
from trainables.ranks import sum_over_ranks

Score = Literal["uniform", "magnitude", "activation"]


def draw_masks(
    parameters: Sequence[Tensor],
    sparsity: float,
    score: Score,
    generator: torch.Generator,
    input_norms: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return a mask of each parameter: False for round(sparsity * its entries) of them, but at least one is True.

    Args:
        generator: of the parameters' device.
        input_norms: of each parameter, for `activation`: see `measure_input_norms`.
    """
    if score == "uniform":
        scores = [torch.zeros_like(each) for each in parameters]  # all of them ties
    elif score == "magnitude":
        scores = [each.detach().abs() for each in parameters]
    else:
        assert input_norms is not None
        scores = [each.detach().abs() * norm for each, norm in zip(parameters, input_norms, strict=True)]
    return [_keep_highest(each, sparsity, generator) for each in scores]


def _keep_highest(scores: Tensor, sparsity: float, generator: torch.Generator) -> Tensor:
    n = scores.numel()
    shuffled = torch.randperm(n, generator=generator, device=scores.device)
    lowest_first = shuffled[scores.flatten()[shuffled].argsort(stable=True)]
    kept = torch.ones(n, dtype=torch.bool, device=scores.device)
    kept[lowest_first[: min(round(sparsity * n), n - 1)]] = False
    return kept.view_as(scores)


def measure_input_norms(
    model: nn.Module, parameters: Sequence[Tensor], run: Callable[[], object], world_size: int
) -> list[Tensor]:
    """Return, for each parameter, the L2 norm of what its entries are multiplied with while `run` runs the model.

    Each is shaped to be multiplied with its parameter; 1 for what has no input of its own: biases and norms.
    """
    squares = {id(parameter): torch.zeros((), device=parameter.device) for parameter in parameters}

    def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for parameter, square in _squared_inputs(layer, inputs[0].detach()):
            if id(parameter) in squares:
                squares[id(parameter)] = squares[id(parameter)] + square

    hooks = [layer.register_forward_pre_hook(add) for layer in model.modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    totals = (sum_over_ranks(squares[id(parameter)], world_size) for parameter in parameters)
    return [total.sqrt() if total.ndim else torch.ones_like(total) for total in totals]


def _squared_inputs(layer: nn.Module, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the weights of a layer with the squared norms of their inputs over all else, shaped as the weight."""
    if isinstance(layer, LoraLinear):
        low_PR = _over_rows(layer.low_rank(x)).view(layer.n_parts, -1)
        yield layer.lora_a, _over_rows(x)
        yield layer.lora_b, low_PR.repeat_interleave(len(layer.lora_b) // layer.n_parts, dim=0)
    elif isinstance(layer, LoraConv1d):
        yield layer.lora_a, _over_time(x)[:, None]
        yield layer.lora_b, _over_time(layer.low_rank(x))
    if isinstance(layer, nn.Linear):
        yield layer.weight, _over_rows(x)
    elif isinstance(layer, nn.Conv1d):
        yield layer.weight, _over_time(x)[:, None]


def _over_rows(x: Tensor) -> Tensor:
    return x.float().square().flatten(0, -2).sum(dim=0)


def _over_time(x_BIT: Tensor) -> Tensor:
    return x_BIT.float().square().sum(dim=(0, 2))
