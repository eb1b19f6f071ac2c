"""An ensemble of frozen experts: a head behind each, and what mixes the heads' answers.

B: records, L: leads, T: timesteps, F: features of all experts, E: experts, K: outputs, G: leads that a gate reads,
P: the numbers that stand for a record in front of the heads, F + G T.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from data.dataset import LabelSet, Signal, Split
from trainables.enecg_mixing import Mixing, Weights
from trainables.experts.expert import Expert
from trainables.standardise import OutputUnits
from trainables.tuning.frozen_weights import FrozenWeights

SCALING_RECORDS = 4096  # from which a feature's mean and deviation are known to 2 %
SMALLEST_DEVIATION = 1e-8  # below it a feature is constant, and becomes 0


class Answers(NamedTuple):
    """What the heads and the mixing say of records, in the targets' units.

    Attributes:
        mixed_BK: logits or values of the whole.
        expert_BEK: of each expert alone.
    """

    mixed_BK: Tensor
    expert_BEK: Tensor
    weights: Weights

    def packed(self) -> Tensor:
        """Return all of it as one row a record."""
        parts = (self.mixed_BK, self.expert_BEK.flatten(1), self.weights.log_BE, self.weights.dense_BE)
        return torch.cat(parts, dim=1)

    @staticmethod
    def unpacked(packed: Tensor, n_experts: int, n_outputs: int) -> Answers:
        """Return what `packed` made a row of."""
        sizes = [n_outputs, n_experts * n_outputs, n_experts, n_experts]
        mixed_BK, expert_BX, log_BE, dense_BE = torch.split(packed, sizes, dim=1)
        return Answers(mixed_BK, expert_BX.reshape(-1, n_experts, n_outputs), Weights(log_BE, dense_BE))

    @staticmethod
    def mean(members: Sequence[Answers]) -> Answers:
        """Return the members' mean; their weights are the same."""
        if len(members) == 1:
            return members[0]
        mixed_BK = torch.stack([each.mixed_BK for each in members]).mean(dim=0)
        expert_BEK = torch.stack([each.expert_BEK for each in members]).mean(dim=0)
        return Answers(mixed_BK, expert_BEK, members[0].weights)

    def none(self) -> Answers:
        """Return the answers for no record."""
        weights = Weights(self.weights.log_BE[:0], self.weights.dense_BE[:0])
        return Answers(self.mixed_BK[:0], self.expert_BEK[:0], weights)


class FeatureScale(nn.Module):
    """features_BF -> the same with mean 0 and deviation 1 over training records, once `fit` has seen them."""

    location_F: Tensor
    scale_F: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("location_F", torch.zeros(n_features))
        self.register_buffer("scale_F", torch.ones(n_features))

    def fit(self, features_NF: Tensor) -> None:
        """Take the statistics of `features_NF`."""
        deviation_F, location_F = torch.std_mean(features_NF.double(), dim=0, correction=0)
        self.location_F.copy_(location_F)
        self.scale_F.copy_(torch.where(deviation_F > SMALLEST_DEVIATION, 1 / deviation_F.clamp(min=1e-30), 0.0))

    def forward(self, features_BF: Tensor) -> Tensor:
        return (features_BF - self.location_F) * self.scale_F


class Mixture(nn.Module):
    """All of an ensemble that is trained, behind its experts: packed_B1P -> logits_BK, or values_BK of a regression.

    It may have several members, which have heads of their own and one mixing; their mean is the answer.

    Args:
        widths: of each expert's features.
        heads: one an expert, member by member: its features -> logits_BK.
        n_gate_leads: how many leads the mixing reads, of `n_timesteps` each.
    """

    def __init__(
        self,
        widths: Sequence[int],
        heads: Sequence[nn.Module],
        mixing: Mixing,
        n_gate_leads: int,
        n_timesteps: int,
        label_set: LabelSet,
    ) -> None:
        super().__init__()
        self.widths, self.n_outputs = tuple(widths), label_set.n_outputs
        self.scale = FeatureScale(sum(widths))
        self.heads = nn.ModuleList(heads)
        self.mixing = mixing
        self.units = OutputUnits(label_set.n_outputs) if label_set.task == "regression" else nn.Identity()
        self._n_gate_leads, self._n_timesteps = n_gate_leads, n_timesteps

    @property
    def n_inputs(self) -> int:
        """P."""
        return sum(self.widths) + self._n_gate_leads * self._n_timesteps

    def forward(self, packed_B1P: Tensor) -> Tensor:
        return Answers.mean(self.members(*self.unpack(packed_B1P))).mixed_BK

    def unpack(self, packed_B1P: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features_BF and lead_BGT; None where the mixing reads no lead."""
        if self._n_gate_leads == 0:
            return packed_B1P[:, 0], None
        n_features = sum(self.widths)
        features_BF, lead_BX = torch.split(packed_B1P[:, 0], [n_features, self.n_inputs - n_features], dim=1)
        return features_BF, lead_BX.reshape(packed_B1P.shape[0], self._n_gate_leads, self._n_timesteps)

    def members(self, features_BF: Tensor, lead_BGT: Tensor | None) -> list[Answers]:
        """Return what heads and mixing of each member say."""
        scaled = self.scale(features_BF).split(self.widths, dim=1)
        firsts = range(0, len(self.heads), len(scaled))
        return [self._answer(self.heads[first : first + len(scaled)], scaled, lead_BGT) for first in firsts]

    def _answer(self, heads: Iterable[nn.Module], scaled: Sequence[Tensor], lead_BGT: Tensor | None) -> Answers:
        logits_BEK = torch.stack([head(own_BD) for head, own_BD in zip(heads, scaled, strict=True)], dim=1)
        mixed_BK, weights = self.mixing(logits_BEK, lead_BGT)
        return Answers(self.units(mixed_BK), self.units(logits_BEK), weights)


class EnsembleNetwork(nn.Module):
    """ecg_BLT in mV -> logits_BK, or values_BK of a regression.

    The experts always evaluate, and their weights are no part of the state dict, but for a digest of them.

    Args:
        gate_rows: the leads that the mixing reads.
        origin: where the experts' weights come from, for a message.

    Attributes:
        reads_features: whether `forward` takes packed_B1P in the place of ecg_BLT. No part of the state dict: one
            checkpoint serves both.
    """

    def __init__(
        self, experts: Sequence[Expert], mixture: Mixture, gate_rows: Sequence[int], signal: Signal, origin: str
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.mixture = mixture
        self.gate_rows = tuple(gate_rows)
        self.reads_features = False
        self._n_timesteps = signal.n_timesteps
        frozen = frozenset(f"experts.{name}" for name, _ in self.experts.named_parameters())
        self.frozen_weights: FrozenWeights | None = FrozenWeights(self, frozen, origin) if frozen else None

    def forward(self, x: Tensor) -> Tensor:
        return self.answers(x).mixed_BK

    def answers(self, x: Tensor) -> Answers:
        """Return what heads and mixing say.

        Args:
            x: ecg_BLT; packed_B1P where `reads_features`.
        """
        return Answers.mean(self.members(x))

    def members(self, x: Tensor) -> list[Answers]:
        """Return what each member says; see `answers`."""
        if not _is_traced() and len(x) == 0:  # a worker without a share of the last batch, which experts refuse
            return [each.none() for each in self.members(x.new_zeros(1, *x.shape[1:]))]
        return self.mixture.members(*self.read(x))

    def read(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return features_BF, what the experts make of the records one behind another, and lead_BGT, if any."""
        if self.reads_features:
            return self.mixture.unpack(x)
        with torch.no_grad():
            features_BF = torch.cat([expert(x) for expert in self.experts], dim=1)
        return features_BF, x[:, self.gate_rows] if self.gate_rows else None

    @torch.no_grad()
    def fit_scale(self, train: Split, seed: int) -> None:
        """Standardise the features by those of training records, `SCALING_RECORDS` at random where there are more."""
        device, found, n_seen = self.mixture.scale.scale_F.device, [], 0
        for batch in train.batches(64, shuffle_seed=seed):
            x = (
                batch.ecg_BLT if self.reads_features else batch.ecg_BLT[:, :, : self._n_timesteps]
            )  # of crops: the first
            found.append(self.read(torch.from_numpy(x).to(device))[0])
            n_seen += len(batch.index_B)
            if n_seen >= SCALING_RECORDS:
                break
        if found:
            self.mixture.scale.fit(torch.cat(found))

    def release(self) -> Self:
        """Let the state dict hold the experts' weights too."""
        if self.frozen_weights is not None:
            self.frozen_weights.release()
            self.frozen_weights = None
        return self


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
