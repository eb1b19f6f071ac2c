"""The networks of AdaGrad-Fusion, teacher and student alike: a body, and a head that may answer twice.

B: records, L: leads, T: timesteps, C: width, K: outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from data.dataset import LabelSet, Signal
from trainables.config import TrainConfig
from trainables.conv_transformer import SIZES, ConvTransformer, Size
from trainables.standardise import OutputUnits, Standardise
from trainables.windows import window_timesteps

HeadKind = Literal["linear", "mlp"]
Leads = Literal[12, 3, 1]
SEEN_LEADS: Mapping[Leads, tuple[str, ...]] = {3: ("II", "V1", "V5"), 1: ("I",)}  # the original's, by name


class NetworkConfig(TrainConfig):
    """What a network is made of."""

    size: Size = Field(
        "tinylight",
        description="Backbone: nano (0.017 M parameters), tinylight (0.26 M, the student), tiny (1.6 M), light "
        "(2.4 M), base (9.5 M), mediumv2 (38 M), medium (50 M, the teacher), large (114 M).",
    )
    causal: bool = Field(True, description="Attention looks back only, as in the published weights.")
    head: HeadKind = Field(
        "linear", description="linear: two linear layers, as in the published weights; mlp: LeakyReLU between them."
    )
    leads: Leads = Field(
        12,
        description="12: all of the data's leads; 3: II, V1, V5; 1: I; the others are set to zero inside the network.",
        json_schema_extra={"unit": "leads"},
    )
    aux_weight: float = Field(
        0.0,
        ge=0,
        description="Weight of the auxiliary head's loss, which tells normal from abnormal; 0: no such head. It is not "
        "used after training.",
    )


class Answers(NamedTuple):
    """What a network says of B records in training."""

    logits_BK: Tensor
    auxiliary_B: Tensor | None  # logits of "abnormal"


class FusionHead(nn.Module):
    """Two linear layers a question, features_BC -> Answers: which labels, and (with `auxiliary`) normal or abnormal."""

    def __init__(self, width: int, label_set: LabelSet, kind: HeadKind, auxiliary: bool) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.between = nn.LeakyReLU() if kind == "mlp" else nn.Identity()
        self.classes = nn.Linear(width, label_set.n_outputs)
        self.units = OutputUnits(label_set.n_outputs) if label_set.task == "regression" else nn.Identity()
        self.has_auxiliary = auxiliary
        if auxiliary:
            self.auxiliary_hidden = nn.Linear(width, width // 2)
            self.auxiliary_out = nn.Linear(width // 2, 1)

    def forward(self, features_BC: Tensor) -> Answers:
        auxiliary_B = self._auxiliary(features_BC) if self.has_auxiliary else None
        return Answers(self.classify(features_BC), auxiliary_B)

    def classify(self, features_BC: Tensor) -> Tensor:
        """Return logits_BK alone."""
        logits_BK: Tensor = self.units(self.classes(self.between(self.hidden(features_BC))))
        return logits_BK

    def _auxiliary(self, features_BC: Tensor) -> Tensor:
        hidden_BC = F.leaky_relu(self.auxiliary_hidden(features_BC))
        logits_B1: Tensor = self.auxiliary_out(hidden_BC)
        return logits_B1[:, 0]


class FusionNetwork(nn.Module):
    """ecg_BLT -> logits_BK, as it is validated, tested and exported: the auxiliary head speaks in training alone.

    Attributes:
        body: ecg_BLT -> features_BC.
        head: features_BC -> Answers.
    """

    def __init__(self, body: nn.Module, head: FusionHead) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return self.head.classify(self.body(ecg_BLT))


class LeadMask(nn.Module):
    """Set the leads that a network is not to see to zero: ecg_BLT -> ecg_BLT."""

    seen_L1: Tensor

    def __init__(self, seen: tuple[bool, ...]) -> None:
        super().__init__()
        self.register_buffer("seen_L1", torch.tensor(seen, dtype=torch.float32)[:, None])

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return ecg_BLT * self.seen_L1


def build_network(config: NetworkConfig, signal: Signal, label_set: LabelSet) -> FusionNetwork:
    """Build a network, initialised from torch's global generator.

    Raises:
        ValueError: the signal lacks a lead that the network is to see.
    """
    layers: list[nn.Module] = [Standardise()] if signal.standardise_windows else []
    if config.leads != 12:
        layers.append(LeadMask(seen_leads(signal, config.leads)))
    n_timesteps = window_timesteps(config, signal)
    layers.append(ConvTransformer(config.size, len(signal.lead_names), n_timesteps, config.causal))
    head = FusionHead(SIZES[config.size].width, label_set, config.head, config.aux_weight > 0)
    return FusionNetwork(nn.Sequential(*layers), head)


def seen_leads(signal: Signal, leads: Leads) -> tuple[bool, ...]:
    """Return, for each lead of the signal, whether a network of so many leads sees it.

    Raises:
        ValueError: the signal lacks one of them.
    """
    names = [name.upper() for name in signal.lead_names]
    wanted = names if leads == 12 else [name.upper() for name in SEEN_LEADS[leads]]
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise ValueError(
            f"leads: {leads} looks at {', '.join(SEEN_LEADS[leads])}, but of these the signal lacks "
            f"{', '.join(lacking)}; it has {', '.join(signal.lead_names)}; leads: 12 takes all of them"
        )
    return tuple(name in wanted for name in names)
