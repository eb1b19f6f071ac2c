"""From tokens to the features of a record.

B: records, V: views (see `placement`), K: states (the last layer's alone, or every layer's), E: tokens, D: features.
Pooling has two steps, since the first has no parameters: its result can be kept for all trials (`trainables.features`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.backbones.config import LeadPooling, TokenPooling


def reduce_tokens(states_BVKED: Tensor, pooling: TokenPooling) -> Tensor:
    """Take the mean over the tokens where no weight is learned over them: reduced_BVKD, else the states as they are."""
    return states_BVKED if pooling == "attention" else states_BVKED.mean(dim=3)


class Pool(nn.Module):
    """The second step: what `reduce_tokens` left -> features_BD."""

    def __init__(self, pooling: TokenPooling, lead_pooling: LeadPooling, n_states: int, hidden_size: int) -> None:
        super().__init__()
        self.pooling, self.lead_pooling = pooling, lead_pooling
        self.combine: nn.Module = nn.Identity()
        if pooling == "attention":
            self.combine = AttentionPool(hidden_size)
        elif pooling == "layer_sum":
            self.combine = LayerSum(n_states)

    def forward(self, reduced: Tensor) -> Tensor:
        features_BVKD: Tensor = self.combine(reduced)
        features_BVD = features_BVKD[:, :, 0]
        return features_BVD.mean(dim=1) if self.lead_pooling == "mean" else features_BVD.amax(dim=1)

    def extra_repr(self) -> str:
        return f"{self.pooling}, leads by {self.lead_pooling}"


class AttentionPool(nn.Module):
    """Weigh tokens by a learned query: states_BVKED -> features_BVKD; zero at first, so it starts as the mean."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, 1, bias=False)
        nn.init.zeros_(self.query.weight)

    def forward(self, states_BVKED: Tensor) -> Tensor:
        weight_BVKE1: Tensor = self.query(states_BVKED).softmax(dim=3)
        return (weight_BVKE1 * states_BVKED).sum(dim=3)


class LayerSum(nn.Module):
    """Weigh the layers' means: means_BVKD -> features_BV1D (Yang et al. 2021, SUPERB, arXiv:2105.01051)."""

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.logit_K = nn.Parameter(torch.zeros(n_states))

    def forward(self, means_BVKD: Tensor) -> Tensor:
        weight_K1 = self.logit_K.softmax(dim=0)[:, None]
        return (weight_K1 * means_BVKD).sum(dim=2, keepdim=True)
