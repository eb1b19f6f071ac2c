"""Running a network in the layout of `transformers` token by token, with masks and padding, as pretraining needs it.

`transformers`' own `forward` reads one sequence, overwrites masked tokens in place and draws skipped layers so that
several workers would disagree; these functions run its modules. B: records, L: leads, C: inputs of the network,
T: timesteps, E: tokens, H: hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.backbones.architecture import Architecture
from trainables.standardise import before_padding


def lay_out(ecg_BLT: Tensor, architecture: Architecture) -> Tensor:
    """Return what the network reads, wave_BCT: all leads one after another, or each in its own input."""
    return ecg_BLT.flatten(1)[:, None] if architecture.n_inputs == 1 else ecg_BLT


def count_tokens(architecture: Architecture, n_leads: int, n_timesteps: int) -> int:
    """Return the tokens of a record.

    Raises:
        ValueError: it has none, or the network reads another number of leads.
    """
    if architecture.n_inputs not in (1, n_leads):
        raise ValueError(
            f"the network reads {architecture.n_inputs} leads, but the records have {n_leads}; bring them there with "
            "`leads: {names: [...], missing: zero}` in data.preprocess"
        )
    n_tokens = architecture.n_tokens(n_timesteps * (n_leads if architecture.n_inputs == 1 else 1))
    if n_tokens < 2:
        raise ValueError(
            f"{n_leads} leads x {n_timesteps} timesteps make {n_tokens} tokens, and 2 are the least; "
            "take longer records"
        )
    return n_tokens


def conv_features(network: Any, wave_BCT: Tensor) -> Tensor:
    """Run the convolutions; returns feature_BEC."""
    for layer in network.feature_extractor.conv_layers:
        wave_BCT = layer(wave_BCT)
    return wave_BCT.transpose(1, 2)


def encode(
    network: Any,
    feature_BEC: Tensor,
    mask_BE: Tensor | None = None,
    valid_BE: Tensor | None = None,
    layerdrop: float = 0.0,
) -> Tensor:
    """Run projection and transformer; returns hidden_BEH.

    Args:
        mask_BE: where true, the learned vector stands in for the token.
        valid_BE: where false, a token is padding: zero, and attended by none; None: there is no padding.
        layerdrop: chance in training that a layer is skipped (Fan et al. 2020, arXiv:1909.11556).
    """
    projected = network.feature_projection(feature_BEC)
    hidden_BEH: Tensor = projected[0] if isinstance(projected, tuple) else projected  # wav2vec2's gives two
    return encode_projected(network, hidden_BEH, mask_BE, valid_BE, layerdrop)


def encode_projected(
    network: Any,
    hidden_BEH: Tensor,
    mask_BE: Tensor | None = None,
    valid_BE: Tensor | None = None,
    layerdrop: float = 0.0,
) -> Tensor:
    """Run the transformer on projected tokens; see `encode`."""
    hidden_BEH, attended = embed(network, hidden_BEH, mask_BE, valid_BE)
    for layer in network.encoder.layers:
        hidden_BEH = run_layer(layer, hidden_BEH, attended, layerdrop)
    return hidden_BEH


def hidden_states(network: Any, feature_BEC: Tensor, valid_BE: Tensor | None = None) -> Iterator[Tensor]:
    """Yield hidden_BEH before the first transformer layer and after each."""
    projected = network.feature_projection(feature_BEC)
    hidden_BEH = projected[0] if isinstance(projected, tuple) else projected
    hidden_BEH, attended = embed(network, hidden_BEH, None, valid_BE)
    yield hidden_BEH
    for layer in network.encoder.layers:
        hidden_BEH = run_layer(layer, hidden_BEH, attended, 0.0)
        yield hidden_BEH


def embed(
    network: Any, hidden_BEH: Tensor, mask_BE: Tensor | None, valid_BE: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Mask, add positions and normalise; returns hidden_BEH and what attention may see, attended_B11E."""
    if mask_BE is not None:
        hidden_BEH = torch.where(mask_BE[:, :, None], network.masked_spec_embed.to(hidden_BEH.dtype), hidden_BEH)
    attended_B11E = None
    if valid_BE is not None:
        hidden_BEH = hidden_BEH * valid_BE[:, :, None]
        attended_B11E = valid_BE[:, None, None, :]
    encoder = network.encoder
    hidden_BEH = encoder.dropout(encoder.layer_norm(hidden_BEH + encoder.pos_conv_embed(hidden_BEH)))
    return hidden_BEH, attended_B11E


def run_layer(layer: Any, hidden_BEH: Tensor, attended_B11E: Tensor | None, layerdrop: float) -> Tensor:
    """Run one transformer layer, or in training skip it by chance."""
    if not (layer.training and layerdrop and torch.rand([]) < layerdrop):
        ran_BEH: Tensor = layer(hidden_BEH, attention_mask=attended_B11E)
        return ran_BEH
    if dist.is_initialized():  # gradients are exchanged by all workers, and each skips other layers
        unused_BEH: Tensor = layer(hidden_BEH, attention_mask=attended_B11E)
        return hidden_BEH + 0 * unused_BEH
    return hidden_BEH


def valid_tokens(ecg_BLT: Tensor, architecture: Architecture, n_tokens: int) -> Tensor:
    """Return valid_BE, found in the signal: at most half of a token's stride is padding at the records' ends."""
    hop = 1
    for stride in architecture.conv_strides:
        hop *= stride
    signal_B1T = before_padding(ecg_BLT)
    if architecture.n_inputs == 1:
        signal_B1T = signal_B1T.expand(-1, ecg_BLT.shape[1], -1).flatten(1)[:, None]
    share_B1E = nn.functional.avg_pool1d(signal_B1T, hop, hop)
    return share_B1E[:, 0, :n_tokens] >= 0.5


def mean_of_tokens(hidden_BEH: Tensor, valid_BE: Tensor | None) -> Tensor:
    """Return the mean over the tokens that are signal, features_BH."""
    if valid_BE is None:
        return hidden_BEH.mean(dim=1)
    weight_BE1 = valid_BE[:, :, None].to(hidden_BEH.dtype)
    return (hidden_BEH * weight_BE1).sum(dim=1) / weight_BE1.sum(dim=1).clamp(min=1)


def set_dropout(network: Any, dropout: float) -> None:
    """Set every dropout of the transformer, that of attention weights included, which is a number and no module."""
    for module in network.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    for layer in network.encoder.layers:
        layer.attention.dropout = dropout
