"""Zeroth-order gradients against the directional derivative: exact for a quadratic, by autograd for a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainables.zeroth_order import Direction, gradient, predicted_slopes, slopes

DIRECTIONS = [Direction(seed) for seed in range(5)]


def quadratic() -> tuple[Tensor, Tensor, Callable[[], Tensor], Tensor]:
    """Return x, its Hessian, the function x^T H x / 2 + b^T x of it and its gradient H x + b, in float64."""
    torch.manual_seed(0)
    root, b, x = (torch.randn(shape, dtype=torch.float64) for shape in ((8, 8), (8,), (8,)))
    hessian = root @ root.T
    return x, hessian, lambda: x @ hessian @ x / 2 + b @ x, hessian @ x + b


def test_two_sides_of_a_quadratic_give_its_slope_exactly() -> None:
    x, _, f, g = quadratic()
    expected = torch.stack([g @ z for (z,) in (each.draw([x]) for each in DIRECTIONS)])
    torch.testing.assert_close(slopes(f, [x], DIRECTIONS, 0.5), expected.float(), rtol=1e-6, atol=0)


def test_one_side_of_a_quadratic_is_off_by_its_curvature() -> None:
    x, hessian, f, g = quadratic()
    expected = torch.stack([g @ z + 0.25 * z @ hessian @ z for (z,) in (each.draw([x]) for each in DIRECTIONS)])
    found = slopes(f, [x], DIRECTIONS, 0.5, two_sided=False)
    torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


def network(dtype: torch.dtype) -> tuple[list[Tensor], Callable[[], Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(3, 8, 5), nn.LeakyReLU(), nn.Flatten(), nn.Linear(224, 4)).to(dtype)
    x, y = torch.randn(16, 3, 32, dtype=dtype), torch.randint(2, (16, 4)).to(dtype)
    return list(net.parameters()), lambda: nn.functional.binary_cross_entropy_with_logits(net(x), y)


@pytest.mark.parametrize(
    ("dtype", "two_sided", "eps", "rtol", "atol"),
    [
        (torch.float64, True, 1e-6, 1e-5, 1e-6),
        (torch.float64, False, 1e-6, 1e-4, 1e-5),
        (torch.float32, True, 1e-3, 0.02, 1e-3),
    ],
)
def test_a_networks_slope_is_its_directional_derivative(
    dtype: torch.dtype, two_sided: bool, eps: float, rtol: float, atol: float
) -> None:
    parameters, loss = network(dtype)
    gradients = torch.autograd.grad(loss(), parameters)
    expected = predicted_slopes(gradients, DIRECTIONS).float()
    found = slopes(loss, parameters, DIRECTIONS, eps, two_sided=two_sided)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("two_sided", [True, False])
def test_parameters_are_restored_bit_for_bit(two_sided: bool) -> None:
    parameters, loss = network(torch.float32)
    before = [parameter.clone() for parameter in parameters]
    slopes(loss, parameters, DIRECTIONS, 0.37, two_sided=two_sided)
    assert all(torch.equal(parameter, value) for parameter, value in zip(parameters, before, strict=True))


def test_parameters_are_restored_where_an_evaluation_fails() -> None:
    parameters, _ = network(torch.float32)
    before = [parameter.clone() for parameter in parameters]

    def fail() -> Tensor:
        raise FloatingPointError("boom")

    with pytest.raises(FloatingPointError, match="boom"):
        slopes(fail, parameters, DIRECTIONS, 0.37)
    assert all(torch.equal(parameter, value) for parameter, value in zip(parameters, before, strict=True))


def test_both_evaluations_see_the_same_direction_in_opposite_senses() -> None:
    x = torch.zeros(100)
    seen: list[Tensor] = []

    def look() -> Tensor:
        seen.append(x.clone())
        return x.sum()

    slopes(look, [x], DIRECTIONS[:1], 0.5)
    (z,) = DIRECTIONS[0].draw([x])
    torch.testing.assert_close(seen, [0.5 * z, -0.5 * z])


def test_a_gradient_is_the_mean_of_slope_times_direction() -> None:
    x = torch.zeros(3, 4)
    z1, z2 = (next(each.draw([x])) for each in DIRECTIONS[:2])
    (found,) = gradient([x], DIRECTIONS[:2], torch.tensor([2.0, -3.0]))
    torch.testing.assert_close(found, (2 * z1 - 3 * z2) / 2)


def test_with_many_directions_it_is_the_gradient() -> None:
    x, _, f, g = quadratic()
    directions = [Direction(seed) for seed in range(4000)]
    (found,) = gradient([x], directions, slopes(f, [x], directions, 1e-3))
    assert torch.cosine_similarity(found, g, dim=0) > 0.98
    assert found.norm() == pytest.approx(g.norm().item(), rel=0.15)


def test_a_masked_direction_leaves_the_rest_alone() -> None:
    x = torch.zeros(1000)
    mask = torch.arange(1000) < 300
    (z,) = Direction(0, [mask]).draw([x])
    (whole,) = Direction(0).draw([x])
    torch.testing.assert_close(z, whole * mask)
