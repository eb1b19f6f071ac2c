"""A backbone with a head: what methods on backbones train.

B: records, L: leads, T: timesteps, D: features, K: outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.dataset import LabelSet, Signal
from trainables.backbones.backbone import Backbone
from trainables.standardise import OutputUnits, Standardise
from trainables.tuning.frozen_weights import FrozenWeights


class BackboneClassifier(nn.Module):
    """ecg_BLT -> logits_BK, with what `signal` asks for before the backbone and `label_set` behind the head.

    Attributes:
        normalise: ecg_BLT -> ecg_BLT, before everything else; unless given, what `signal` asks for.
        start: the stage of the backbone that `forward` begins with; from 1 on its input is what `run(ecg_BLT, 0,
            start)` gave. No part of the state dict: one checkpoint serves both.
        frozen_weights: leaves the backbone's frozen weights out of the state dict, where a method asks for that.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        signal: Signal,
        label_set: LabelSet,
        normalise: nn.Module | None = None,
    ) -> None:
        super().__init__()
        standardise = Standardise() if signal.standardise_windows else nn.Identity()
        self.normalise = standardise if normalise is None else normalise
        self.backbone = backbone
        self.head = head
        self.units = OutputUnits(label_set.n_outputs) if label_set.task == "regression" else nn.Identity()
        self.start = 0
        self.frozen_weights: FrozenWeights | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not _is_traced() and len(x) == 0:  # a worker without a share of the last batch
            # The layers refuse it; this way every parameter still takes part in the gradient that workers exchange.
            return self.forward(x.new_zeros(1, *x.shape[1:]))[:0]
        features_BD = self.run(x, self.start, self.backbone.n_stages)
        logits_BK: Tensor = self.units(self.head(features_BD))
        return logits_BK

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Run stages of the backbone; see `Backbone.run`."""
        return self.backbone.run(self.normalise(x) if start == 0 else x, start, stop)


def _is_traced() -> bool:
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
