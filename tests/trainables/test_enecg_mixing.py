"""Experts' answers are mixed as the formulas say, in numbers of NumPy's and SciPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax
from torch import Tensor, nn

from data.dataset import Task
from trainables.enecg_mixing import (
    Gate,
    Stacking,
    StaticWeights,
    UniformWeights,
    Weighing,
    WeightedMixing,
    Weights,
    imbalance,
    mix,
)

N, N_EXPERTS, N_OUTPUTS, N_TIMESTEPS = 7, 4, 3, 20
NONE = torch.empty(0, N_EXPERTS, N_OUTPUTS)  # a gate looks at no answer


@pytest.fixture
def logits_BEK() -> Tensor:
    return torch.randn(N, N_EXPERTS, N_OUTPUTS, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def lead_BGT() -> Tensor:
    return torch.randn(N, 1, N_TIMESTEPS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def weights() -> Weights:
    log_BE = torch.log_softmax(torch.randn(N, N_EXPERTS, generator=torch.Generator().manual_seed(2)), dim=1)
    return Weights(log_BE, log_BE.exp())


def gate(top_k: int | None = None) -> Gate:
    torch.manual_seed(3)
    return Gate(N_TIMESTEPS, N_EXPERTS, width=16, dropout=0.0, top_k=top_k)


def test_probabilities_of_classes_are_averaged_not_logits(logits_BEK: Tensor, weights: Weights) -> None:
    expected_BK = (weights.weight_BE.numpy()[:, :, None] * softmax(logits_BEK.numpy(), axis=2)).sum(axis=1)
    mixed_BK = mix(logits_BEK, weights, "probabilities", "multiclass").numpy()
    np.testing.assert_allclose(softmax(mixed_BK, axis=1), expected_BK, rtol=1e-5)
    of_logits_BK = mix(logits_BEK, weights, "logits", "multiclass").numpy()
    assert np.abs(softmax(of_logits_BK, axis=1) - expected_BK).max() > 0.05


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_probabilities_of_labels_are_averaged_each_by_itself(task: Task, logits_BEK: Tensor, weights: Weights) -> None:
    expected_BK = (weights.weight_BE.numpy()[:, :, None] * expit(logits_BEK.numpy())).sum(axis=1)
    np.testing.assert_allclose(mix(logits_BEK, weights, "probabilities", task), logit(expected_BK), rtol=1e-4)


def test_values_of_a_regression_are_averaged(logits_BEK: Tensor, weights: Weights) -> None:
    expected_BK = np.einsum("be,bek->bk", weights.weight_BE.numpy(), logits_BEK.numpy())
    np.testing.assert_allclose(mix(logits_BEK, weights, "probabilities", "regression"), expected_BK, rtol=1e-5)


def test_confident_experts_are_not_rounded_to_certainty() -> None:
    confident = torch.tensor([[[40.0], [42.0]]])
    even = Weights(torch.full((1, 2), math.log(0.5)), torch.full((1, 2), 0.5))
    expected = -math.log((math.exp(-40) + math.exp(-42)) / 2)  # of 1 - p
    assert mix(confident, even, "probabilities", "binary").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weighing", [UniformWeights(), StaticWeights(N_EXPERTS)])
def test_uniform_and_untrained_static_weights_are_equal(weighing: Weighing, logits_BEK: Tensor) -> None:
    weights = weighing(logits_BEK, None)
    assert torch.allclose(weights.weight_BE, torch.full((N, N_EXPERTS), 0.25))


def test_a_dense_gate_gives_every_record_positive_weights_that_sum_to_one(lead_BGT: Tensor) -> None:
    weight_BE = gate()(NONE, lead_BGT).weight_BE
    assert (weight_BE > 0).all()
    assert torch.allclose(weight_BE.sum(dim=1), torch.ones(N))
    assert weight_BE.std(dim=0).min() > 0


def test_a_gate_reads_its_leads_whatever_their_gain(lead_BGT: Tensor) -> None:
    assert torch.allclose(gate()(NONE, lead_BGT).weight_BE, gate()(NONE, 5 * lead_BGT).weight_BE, atol=1e-5)


def test_a_gate_of_few_keeps_the_largest_weights_alone_and_scales_them(lead_BGT: Tensor) -> None:
    dense_BE, weights = gate()(NONE, lead_BGT).weight_BE.detach(), gate(top_k=2)(NONE, lead_BGT)
    kept_BE = weights.weight_BE.detach() > 0
    assert kept_BE.sum(dim=1).tolist() == [2] * N
    assert (dense_BE[kept_BE].reshape(N, 2).amin(dim=1) > dense_BE[~kept_BE].reshape(N, 2).amax(dim=1)).all()
    own_BE = torch.where(kept_BE, dense_BE, 0.0)
    assert torch.allclose(weights.weight_BE, own_BE / own_BE.sum(dim=1, keepdim=True), atol=1e-6)
    assert torch.allclose(weights.dense_BE, dense_BE)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_experts_that_a_gate_leaves_out_have_no_say_and_no_gradient(
    task: Task, logits_BEK: Tensor, lead_BGT: Tensor
) -> None:
    logits_BEK.requires_grad_(True)
    mixed_BK, weights = WeightedMixing(gate(top_k=1), "probabilities", task)(logits_BEK, lead_BGT)
    mixed_BK.sum().backward()
    assert logits_BEK.grad is not None and logits_BEK.grad.isfinite().all()
    assert not logits_BEK.grad[weights.weight_BE == 0].any()


def test_an_even_load_has_an_imbalance_of_one_and_a_collapsed_one_of_all_experts() -> None:
    even = torch.eye(N_EXPERTS)
    one = torch.tensor([[1.0, 0, 0, 0]] * 5)
    assert imbalance(Weights(even.log(), even)).item() == pytest.approx(1.0)
    assert imbalance(Weights(one.log(), one)).item() == pytest.approx(N_EXPERTS)


def test_the_imbalance_takes_weight_from_the_expert_that_has_most() -> None:
    score_BE = torch.tensor([[2.0, 0.0, 0.0, 0.0]] * 3, requires_grad=True)
    dense_BE = torch.softmax(score_BE, dim=1)
    imbalance(Weights(dense_BE.log(), dense_BE)).backward()  # type: ignore[no-untyped-call]
    assert score_BE.grad is not None
    assert (score_BE.grad[:, 0] > 0).all() and (score_BE.grad[:, 1:] < 0).all()


def test_stacking_starts_as_the_mean_and_leaves_the_heads_alone(logits_BEK: Tensor) -> None:
    logits_BEK.requires_grad_(True)
    stacking = Stacking(N_EXPERTS, N_OUTPUTS)
    stacked_BK, weights = stacking(logits_BEK, None)
    assert torch.allclose(stacked_BK, logits_BEK.mean(dim=1), atol=1e-5)
    assert torch.allclose(weights.weight_BE, torch.full((N, N_EXPERTS), 0.25))
    stacked_BK.sum().backward()
    assert logits_BEK.grad is None
    assert all(parameter.grad is not None for parameter in stacking.parameters())


def test_a_stacking_that_is_the_least_squares_solution_has_nothing_to_learn() -> None:
    rng = np.random.default_rng(0)
    answers_BE, truth_B = rng.normal(size=(200, 3)), rng.normal(size=200)
    design = np.hstack([answers_BE, np.ones((200, 1))])
    *coefficients, intercept = np.linalg.lstsq(design, truth_B)[0].tolist()
    stacking = Stacking(3, 1).double()
    with torch.no_grad():
        stacking.linear.weight.copy_(torch.tensor([coefficients], dtype=torch.float64))
        stacking.linear.bias.fill_(intercept)
    stacked_B1, _ = stacking(torch.from_numpy(answers_BE)[:, :, None], None)
    nn.functional.mse_loss(stacked_B1[:, 0], torch.from_numpy(truth_B)).backward()  # type: ignore[no-untyped-call]
    for parameter in stacking.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-12
