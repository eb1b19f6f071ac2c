"""A backbone as a chain of stages, so that its frozen beginning can be run apart from the rest.

B: records, L: leads, T: timesteps, V: views, C: inputs, E: tokens, D: hidden size, K: states.

The stages: `extract` (placement and convolutions), `project`, `embed` (SpecAugment, positional convolution, norm),
one for each transformer layer, `reduce` and `pool`. What passes between two stages is one tensor whose first axis is
the record's: feature_BVEC, feature_BVED, states_BVKED, ..., reduced, features_BD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from data.dataset import Signal
from trainables.backbones.architecture import Architecture, architecture_of, build_network
from trainables.backbones.config import BackboneConfig
from trainables.backbones.placement import Placement
from trainables.backbones.pooling import Pool, reduce_tokens
from trainables.backbones.spec_augment import draw_mask, fit_span
from trainables.windows import window_signal

FEWEST_TOKENS = 4  # with fewer, attention has nothing to attend to
WANTED_TOKENS = 20  # what the remedy aims at

FIRST_LAYER = 3  # stages before it: extract, project, embed


class Backbone(nn.Module):
    """ecg_BLT -> features_BD.

    Stages below the first that is trained stay in evaluation mode: their dropout is off, and what they compute of a
    record never changes.

    Attributes:
        network: in the layout of `transformers`: feature_extractor, feature_projection, encoder.
        pool: its parameters are fresh, and train with the head.
        n_tokens: of one view.
    """

    def __init__(self, config: BackboneConfig, signal: Signal) -> None:
        super().__init__()
        self.architecture = architecture_of(config.backbone, config.size)
        self.placement = Placement(config, window_signal(config, signal))
        self.n_tokens = _checked_tokens(config, self.architecture, self.placement, len(signal.lead_names))
        # A vector that takes part in nothing would hang several workers.
        self.network: Any = build_network(self.architecture, config.encoder_dropout, masks=config.mask_prob > 0)
        self.pooling, self.mask_prob = config.pooling, config.mask_prob
        self.mask_span = fit_span(config.mask_span, self.n_tokens)
        n_states = 1 + self.n_layers if config.pooling == "layer_sum" else 1
        self.pool = Pool(config.pooling, config.lead_pooling, n_states, self.hidden_size)

    @property
    def hidden_size(self) -> int:
        return self.architecture.hidden_size

    @property
    def n_layers(self) -> int:
        return self.architecture.n_layers

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers: attention.{q,k,v,out}_proj, feed_forward.{intermediate,output}_dense, norms."""
        layers: nn.ModuleList = self.network.encoder.layers
        return layers

    @property
    def stage_names(self) -> tuple[str, ...]:
        layers = (f"layer{number}" for number in range(self.n_layers))
        return ("extract", "project", "embed", *layers, "reduce", "pool")

    @property
    def n_stages(self) -> int:
        return FIRST_LAYER + self.n_layers + 2

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return self.run(ecg_BLT, 0, self.n_stages)

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Run the stages from `start` up to but not including `stop` on what the stage before `start` gave."""
        for stage in range(start, stop):
            x = self._run_stage(stage, x)
        return x

    def split_at(self) -> int:
        """Return the first stage that is trained, or random in training; `n_stages` where all is frozen and certain."""
        for stage in range(self.n_stages):
            is_masked = stage == FIRST_LAYER - 1 and self.mask_prob > 0
            if is_masked or any(parameter.requires_grad for parameter in self.parameters_of(stage)):
                return stage
        return self.n_stages

    def modules_of(self, stage: int) -> Sequence[nn.Module]:
        """Return the modules that a stage runs."""
        encoder = self.network.encoder
        if stage < FIRST_LAYER:
            front = (
                [self.placement, self.network.feature_extractor],
                [self.network.feature_projection],
                [encoder.pos_conv_embed, encoder.layer_norm, encoder.dropout],
            )
            return front[stage]
        if stage < FIRST_LAYER + self.n_layers:
            return [self.layers[stage - FIRST_LAYER]]
        return [self.pool] if stage == self.n_stages - 1 else []

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """Return the parameters of a stage."""
        return [parameter for module in self.modules_of(stage) for parameter in module.parameters()]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for stage in range(self.split_at()):
            for module in self.modules_of(stage):
                module.eval()
        return self

    def extra_repr(self) -> str:
        return f"n_tokens={self.n_tokens}, pooling={self.pooling}"

    def _run_stage(self, stage: int, x: Tensor) -> Tensor:
        if stage == 0:
            return self._extract(x)
        if stage == 1:
            return self._project(x)
        if stage == 2:
            return self._embed(x)
        if stage < FIRST_LAYER + self.n_layers:
            return self._run_layer(stage - FIRST_LAYER, x)
        if stage == self.n_stages - 2:
            return reduce_tokens(x, self.pooling)
        features_BD: Tensor = self.pool(x)
        return features_BD

    def _extract(self, ecg_BLT: Tensor) -> Tensor:
        x_SCT = self.placement(ecg_BLT).flatten(0, 1)
        for layer in self.network.feature_extractor.conv_layers:
            x_SCT = layer(x_SCT)
        return self._by_record(x_SCT.transpose(1, 2))

    def _project(self, feature_BVEC: Tensor) -> Tensor:
        projected = self.network.feature_projection(feature_BVEC.flatten(0, 1))
        # wav2vec2's gives the normalised features beside them
        hidden_SED = projected[0] if isinstance(projected, tuple) else projected
        return self._by_record(hidden_SED)

    def _embed(self, feature_BVED: Tensor) -> Tensor:
        hidden_SED = feature_BVED.flatten(0, 1)
        if self.training and self.mask_prob > 0:
            mask_SE = draw_mask(len(hidden_SED), self.n_tokens, self.mask_prob, self.mask_span, hidden_SED.device)
            hidden_SED = torch.where(mask_SE[:, :, None], self.network.masked_spec_embed, hidden_SED)
        encoder = self.network.encoder
        hidden_SED = encoder.dropout(encoder.layer_norm(hidden_SED + encoder.pos_conv_embed(hidden_SED)))
        return self._by_record(hidden_SED)[:, :, None]

    def _run_layer(self, number: int, states_BVKED: Tensor) -> Tensor:
        hidden_SED = self.layers[number](states_BVKED[:, :, -1].flatten(0, 1))
        state_BV1ED = self._by_record(hidden_SED)[:, :, None]
        return torch.cat([states_BVKED, state_BV1ED], dim=2) if self.pooling == "layer_sum" else state_BV1ED

    def _by_record(self, x_S: Tensor) -> Tensor:
        """Undo `flatten(0, 1)` of records and views."""
        return x_S.reshape(-1, self.placement.n_views, *x_S.shape[1:])


def build_backbone(config: BackboneConfig, signal: Signal) -> Backbone:
    """Build a backbone with fresh weights; see `trainables.backbones.weights.load_pretrained` for others.

    Raises:
        ValueError: the leads can't be placed as `config` asks, or a window is too short for the convolutions.
    """
    return Backbone(config, signal)


def _checked_tokens(config: BackboneConfig, architecture: Architecture, placement: Placement, n_leads: int) -> int:
    n_tokens = architecture.n_tokens(placement.n_timesteps)
    if n_tokens >= FEWEST_TOKENS:
        return n_tokens
    plural = "" if n_tokens == 1 else "s"
    raise ValueError(
        f"{config.backbone} makes {n_tokens} token{plural} of {placement.n_timesteps} timesteps, and needs at least "
        f"{FEWEST_TOKENS}; {_remedy(config, architecture, placement, n_leads)}"
    )


def _remedy(config: BackboneConfig, architecture: Architecture, placement: Placement, n_leads: int) -> str:
    remedies = []
    n_timesteps = placement.n_timesteps / config.resample_factor
    for factor in (2, 4, 8, 16, 32, 64):
        n_tokens = architecture.n_tokens(round(n_timesteps * factor))
        if n_tokens >= WANTED_TOKENS:
            remedies.append(f"resample_factor: {factor} makes {n_tokens} tokens")
            break
    if architecture.n_inputs == 1 and placement.kind != "concatenate" and n_leads > 1:
        remedies.append("lead_placement: concatenate puts all leads in one sequence")
    return "; ".join(remedies or ["take longer windows (crop_timesteps) or records"])
