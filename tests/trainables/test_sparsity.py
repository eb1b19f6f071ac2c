"""Sparsity masks: their density is the one stated, and the entries that stay are the ones that the score says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.lora import add_lora
from trainables.sparsity import Score, draw_masks, measure_input_norms


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("score", ["uniform", "magnitude", "activation"])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9])
def test_the_share_left_out_is_the_one_stated(score: Score, sparsity: float) -> None:
    parameters = [torch.randn(40, 25), torch.zeros(1000), torch.randn(10, 10, 10)]
    masks = draw_masks(parameters, sparsity, score, generator(), [torch.ones(()) for _ in parameters])
    assert [int((~mask).sum()) for mask in masks] == [round(1000 * sparsity)] * 3
    assert [mask.shape for mask in masks] == [parameter.shape for parameter in parameters]


def test_something_of_the_smallest_tensor_stays() -> None:
    (mask,) = draw_masks([torch.ones(1)], 0.9, "uniform", generator())
    assert mask.all()


def test_random_masks_follow_their_seed_and_hit_every_entry_alike() -> None:
    x = torch.zeros(50)
    assert torch.equal(*(draw_masks([x], 0.3, "uniform", generator(1))[0] for _ in range(2)))
    often = torch.stack([draw_masks([x], 0.3, "uniform", generator(seed))[0] for seed in range(600)]).float().mean(0)
    assert often.min() > 0.6 and often.max() < 0.8  # 0.7 within five deviations


def test_the_largest_weights_stay() -> None:
    weight = torch.tensor([0.1, -5.0, 0.0, 3.0, -0.2])
    (mask,) = draw_masks([weight], 0.6, "magnitude", generator())
    assert mask.tolist() == [False, True, False, True, False]


def test_ties_are_broken_at_random() -> None:
    masks = {tuple(draw_masks([torch.zeros(6)], 0.5, "magnitude", generator(seed))[0].tolist()) for seed in range(9)}
    assert len(masks) > 1


def test_a_small_weight_on_a_strong_input_stays() -> None:
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0.5]]))
    x = torch.tensor([[1.0, 4.0], [1.0, 4.0]])
    norms = measure_input_norms(layer, [layer.weight], lambda: layer(x), 1)
    torch.testing.assert_close(norms[0], torch.tensor([2.0, 32.0]).sqrt())
    assert draw_masks([layer.weight], 0.5, "activation", generator(), norms)[0].tolist() == [[False, True]]


def test_inputs_of_every_kind_of_layer_are_measured() -> None:
    """A weight's entry of column i meets column i of the unfolded input: its norm is taken with numpy's own matmul."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Flatten(0, 1), nn.Linear(8, 6), nn.Conv1d(5, 6, 1))
    add_lora(net, 2, 2.0, {"0": 1, "2": 3})
    conv, linear = net[0], net[2]
    x = torch.randn(5, 3, 8)

    def run() -> None:
        linear(conv(x).flatten(0, 1))

    parameters = [conv.lora_a, conv.lora_b, linear.lora_a, linear.lora_b, linear.bias]
    with torch.no_grad():
        norms = measure_input_norms(net, parameters, run, 1)
        hidden = conv(x).flatten(0, 1)
        low = hidden @ linear.lora_a.T
    torch.testing.assert_close(norms[0], x.square().sum((0, 2)).sqrt()[:, None])
    torch.testing.assert_close(norms[1], conv.low_rank(x).square().sum((0, 2)).sqrt())
    torch.testing.assert_close(norms[2], hidden.norm(dim=0))
    torch.testing.assert_close(norms[3], low.norm(dim=0).view(3, 2).repeat_interleave(2, dim=0))
    assert norms[4].tolist() == 1
    assert all((parameter * norm).shape == parameter.shape for parameter, norm in zip(parameters, norms, strict=True))
