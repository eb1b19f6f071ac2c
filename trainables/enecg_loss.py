"""The loss of an ensemble: of the whole, of each expert alone, and of a gate that uses few of them.

B: records, E: experts, K: outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.enecg_mixing import imbalance
from trainables.enecg_network import Answers, EnsembleNetwork
from trainables.losses import Criterion


class PackedAnswers(nn.Module):
    """A network's answers as rows, member by member: what is trained, since a loss of all of them needs them all."""

    def __init__(self, network: EnsembleNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([each.packed() for each in self.network.members(x)], dim=1)


class EnsembleCriterion(nn.Module):
    """criterion(whole) + aux_weight x mean of criterion(each expert) + balance_weight x (imbalance - 1).

    The imbalance is that of the records that go through the network at once, as batch norm's statistics are.
    """

    def __init__(
        self, criterion: Criterion, n_experts: int, n_outputs: int, aux_weight: float, balance_weight: float
    ) -> None:
        super().__init__()
        self.criterion = criterion
        self._n_experts, self._n_outputs = n_experts, n_outputs
        self._aux_weight, self._balance_weight = aux_weight, balance_weight

    def total(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        """Return the sum of the weighted losses of `PackedAnswers`, a scalar; 0 for no records."""
        answers = Answers.unpacked(logits_BK, self._n_experts, self._n_outputs)
        loss = self.criterion.total(answers.mixed_BK, targets_BK)
        if self._aux_weight:
            own = [self.criterion.total(own_BK, targets_BK) for own_BK in answers.expert_BEK.unbind(dim=1)]
            loss = loss + self._aux_weight * sum(own) / self._n_experts
        if self._balance_weight and len(targets_BK):
            loss = loss + self._balance_weight * self.weight(targets_BK) * (imbalance(answers.weights) - 1)
        return loss

    def weight(self, targets_BK: Tensor) -> Tensor:
        """Return what `total` is divided by for the mean, a scalar."""
        return self.criterion.weight(targets_BK)
