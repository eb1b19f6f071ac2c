"""The fused gradient by its formula, and agreement measured on gradients whose agreement is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainables.fusion_coefficient import FusionCoefficient, Rule, fuse
from trainables.zeroth_order import Direction, predicted_slopes

N = 400


def test_a_fused_gradient_follows_the_formula() -> None:
    first, zeroth = torch.tensor([3.0, 4.0]), torch.tensor([0.0, -7.0])
    torch.testing.assert_close(fuse(first, zeroth, 0.9), torch.tensor([2.7, 3.6 - 0.1 * 5]))


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0])
def test_without_a_zeroth_order_part_the_first_order_part_keeps_its_share(c: float) -> None:
    torch.testing.assert_close(fuse(torch.ones(3), torch.zeros(3), c), c * torch.ones(3))


def test_a_constant_coefficient_is_honoured() -> None:
    assert [FusionCoefficient(0.85, "constant", 100).at(number) for number in (0, 50, 99)] == [0.85] * 3


def test_by_time_a_fifth_of_the_steps_is_nearly_first_order_and_the_rest_honours_coef() -> None:
    by_time = FusionCoefficient(0.85, "time", 100)
    assert [by_time.at(number) for number in (0, 19, 20, 99)] == [0.99, 0.99, 0.85, 0.85]


def gradients(rho: float, length: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return two gradients whose cosine is rho, the second one `length` times as long."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(N, 2))[0]
    return basis[:, 0], length * (rho * basis[:, 0] + math.sqrt(1 - rho**2) * basis[:, 1])


def measured(rule: Rule, true: Tensor, few: Tensor, n_steps: int = 400, n_queries: int = 4) -> FusionCoefficient:
    """Measure agreement over many steps, as if the whole batch had the gradient `true` and few records `few`."""
    coefficient = FusionCoefficient(0.8, rule, n_steps)
    for number in range(n_steps):
        directions = [Direction(1000 * number + query) for query in range(n_queries)]
        p_Q, predicted_Q = (predicted_slopes([each], directions) for each in (true, few))
        coefficient.measure(p_Q, predicted_Q, few.norm())
    return coefficient


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("length", [1.0, 20.0])
def test_the_cosine_of_two_gradients_is_found_from_slopes_alone(rho: float, length: float) -> None:
    assert measured("cosine", *gradients(rho, length)).agreement == pytest.approx(rho, abs=0.2)


@pytest.mark.parametrize(("rho", "length", "explained"), [(1.0, 1.0, 1.0), (1.0, 0.5, 0.75), (0.5, 1.0, 0.0)])
def test_the_variance_that_a_gradient_explains_falls_with_a_wrong_length_too(
    rho: float, length: float, explained: float
) -> None:
    """1 - |g - g'|^2 / |g|^2, at least 0."""
    assert measured("variance", *gradients(rho, length)).agreement == pytest.approx(explained, abs=0.2)


def test_agreement_moves_the_coefficient_from_coef_to_1() -> None:
    agreed, opposed = measured("cosine", *gradients(1.0)), measured("cosine", *gradients(-1.0))
    assert agreed.at(0) > 0.95
    assert opposed.at(0) == 0.8
    assert FusionCoefficient(0.8, "cosine", 1).at(0) == 0.8


def test_agreement_survives_a_checkpoint() -> None:
    coefficient = measured("cosine", *gradients(0.5))
    resumed = FusionCoefficient(0.8, "cosine", 1)
    resumed.load(coefficient.state())
    assert resumed.agreement == coefficient.agreement > 0
