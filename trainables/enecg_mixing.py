"""How an ensemble's answer follows from its experts': with weights that are equal, learned, or a gate's, or stacked.

B: records, E: experts, K: outputs, G: leads that a gate reads, T: timesteps.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.dataset import Task
from trainables.standardise import Standardise

Averaged = Literal["probabilities", "logits"]
"""What is averaged where answers are classes; values of a regression are averaged as they are."""


class Weights(NamedTuple):
    """Of each record's experts.

    Attributes:
        log_BE: the logarithm of the weights that are used; -inf for an expert that is left out.
        dense_BE: the weights before any expert is left out.
    """

    log_BE: Tensor
    dense_BE: Tensor

    @property
    def weight_BE(self) -> Tensor:
        return self.log_BE.exp()


class Mixing(nn.Module, ABC):
    """(logits_BEK, lead_BGT) -> logits_BK and the experts' weights; regression: standardised values in both places.

    Without a gate there is no lead_BGT.
    """

    @abstractmethod
    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> tuple[Tensor, Weights]: ...


class WeightedMixing(Mixing):
    """The experts' mean with the weights of `weighing`.

    Args:
        weighing: (logits_BEK, lead_BGT) -> weights.
    """

    def __init__(self, weighing: Weighing, averaged: Averaged, task: Task) -> None:
        super().__init__()
        self.weighing = weighing
        self._averaged, self._task = averaged, task

    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> tuple[Tensor, Weights]:
        weights = self.weighing(logits_BEK, lead_BGT)
        return mix(logits_BEK, weights, self._averaged, self._task), weights


class Stacking(Mixing):
    """A linear layer over all experts' answers (Wolpert 1992), at first their mean.

    It learns behind the experts: no gradient goes through it to their heads, which learn by themselves, from other
    records (`trainables.enecg_stacking`). An expert's weight is its share of the layer's coefficients, by size.
    """

    def __init__(self, n_experts: int, n_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_experts * n_outputs, n_outputs)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(n_outputs).repeat(1, n_experts) / n_experts)
            self.linear.bias.zero_()

    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> tuple[Tensor, Weights]:
        n_experts, n_outputs = logits_BEK.shape[1:]
        size_E = self.linear.weight.abs().reshape(n_outputs, n_experts, n_outputs).sum(dim=(0, 2))
        share_BE = (size_E / size_E.sum()).expand(logits_BEK.shape[0], -1)
        stacked_BK: Tensor = self.linear(logits_BEK.detach().flatten(1))
        return stacked_BK, Weights(share_BE.log(), share_BE)


# ------------------------------------------------------------------ weights


class Weighing(nn.Module, ABC):
    """(logits_BEK, lead_BGT) -> the experts' weights, which are positive and sum to 1."""

    @abstractmethod
    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> Weights: ...


class UniformWeights(Weighing):
    """All experts alike."""

    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> Weights:
        weight_BE = torch.full_like(logits_BEK[:, :, 0], 1 / logits_BEK.shape[1])
        return Weights(weight_BE.log(), weight_BE)


class StaticWeights(Weighing):
    """The same learned weights for all records, at first equal."""

    def __init__(self, n_experts: int) -> None:
        super().__init__()
        self.score_E = nn.Parameter(torch.zeros(n_experts))

    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> Weights:
        log_BE = torch.log_softmax(self.score_E, dim=0).expand(logits_BEK.shape[0], -1)
        return Weights(log_BE, log_BE.exp())


class Gate(Weighing):
    """Weights that two layers find in some leads of the record, each lead standardised.

    Args:
        top_k: experts that are used (Shazeer et al. 2017, arXiv:1701.06538, equations 3 to 5, without noise); their
            weights sum to 1. None: all.
    """

    def __init__(self, n_inputs: int, n_experts: int, width: int, dropout: float, top_k: int | None) -> None:
        super().__init__()
        self.standardise = Standardise()
        self.layers = nn.Sequential(
            nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_experts)
        )
        self._top_k = None if top_k == n_experts else top_k

    def forward(self, logits_BEK: Tensor, lead_BGT: Tensor | None) -> Weights:
        assert lead_BGT is not None
        score_BE: Tensor = self.layers(self.standardise(lead_BGT).flatten(1))
        dense_BE = torch.softmax(score_BE, dim=1)
        if self._top_k is not None:
            chosen_BM = score_BE.topk(self._top_k, dim=1).indices
            kept_BE = torch.zeros_like(score_BE).scatter(1, chosen_BM, 1.0)
            score_BE = score_BE.masked_fill(kept_BE == 0, -math.inf)
        return Weights(torch.log_softmax(score_BE, dim=1), dense_BE)


def imbalance(weights: Weights) -> Tensor:
    """Return how unevenly the records of a batch use the experts, a scalar from 1 (all alike) to E (one alone).

    E sum_e f_e P_e, where f_e is the mean of the weights that are used, without a gradient, and P_e that of the weights
    before any expert is left out (Fedus et al. 2022, arXiv:2101.03961, equations 4 to 6, where one expert is used).
    """
    load_E = weights.weight_BE.detach().mean(dim=0)
    return weights.dense_BE.shape[1] * (load_E * weights.dense_BE.mean(dim=0)).sum()


# ------------------------------------------------------------------ means


def mix(logits_BEK: Tensor, weights: Weights, averaged: Averaged, task: Task) -> Tensor:
    """Return the logits of the weighted mean of the experts' probabilities; of their logits; or the mean value."""
    if averaged == "logits" or task == "regression":
        return (weights.weight_BE[:, :, None] * logits_BEK).sum(dim=1)
    log_BE1 = weights.log_BE[:, :, None]
    if task == "multiclass":
        return torch.logsumexp(log_BE1 + torch.log_softmax(logits_BEK, dim=2), dim=1)
    # logit(p) = log(p) - log(1 - p), without ever rounding p to 1; -softplus(-x) is log sigmoid(x)
    positive_BK = torch.logsumexp(log_BE1 - functional.softplus(-logits_BEK), dim=1)
    negative_BK = torch.logsumexp(log_BE1 - functional.softplus(logits_BEK), dim=1)
    return positive_BK - negative_BK
