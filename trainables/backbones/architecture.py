"""The shapes of the backbones, and the networks that have them.

All are a stack of convolutions without bias (group norm behind the first), a projection, a positional convolution and
post-norm transformer layers. wav2vec2 (Baevski et al. 2020, arXiv:2006.11477) and HuBERT (Hsu et al. 2021,
arXiv:2106.07447) read one sequence; ECG-FM (McKeen et al. 2024, arXiv:2408.05178) is a wav2vec2 of twelve leads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

Family = Literal["wav2vec2", "hubert", "ecg_fm"]
Size = Literal["tiny", "small", "base"]

SPEECH_KERNELS = (10, 3, 3, 3, 3, 2, 2)
SPEECH_STRIDES = (5, 2, 2, 2, 2, 2, 2)
ECG_FM_KERNELS = ECG_FM_STRIDES = (2, 2, 2, 2)
ECG_FM_LEADS = 12


@dataclass(frozen=True)
class Architecture:
    """The shape of a backbone.

    Attributes:
        layout: whose module layout and state-dict keys it has, of those that `transformers` knows.
        n_inputs: sequences that are read together, e.g. leads.
        conv_channels: of every convolution; one for each of `conv_kernels` and `conv_strides`.
        pos_kernel: of the positional convolution, in tokens.
    """

    layout: Literal["wav2vec2", "hubert"]
    n_inputs: int
    conv_channels: int
    conv_kernels: tuple[int, ...]
    conv_strides: tuple[int, ...]
    hidden_size: int
    n_layers: int
    n_heads: int
    ffn_size: int
    pos_kernel: int
    pos_groups: int = 16

    def __post_init__(self) -> None:
        assert len(self.conv_kernels) == len(self.conv_strides)
        assert self.hidden_size % self.n_heads == 0 and self.hidden_size % self.pos_groups == 0

    def n_tokens(self, n_timesteps: int) -> int:
        """Return how many tokens the convolutions make of a sequence; 0 where it is shorter than a kernel."""
        for kernel, stride in zip(self.conv_kernels, self.conv_strides, strict=True):
            n_timesteps = max(0, (n_timesteps - kernel) // stride + 1)
        return n_timesteps


_SIZES: Mapping[Size, Mapping[str, int]] = {  # tokens depend on the family alone
    "tiny": {"hidden_size": 96, "n_layers": 3, "n_heads": 4, "ffn_size": 384, "pos_kernel": 32},
    "small": {"hidden_size": 256, "n_layers": 6, "n_heads": 4, "ffn_size": 1024, "pos_kernel": 64},
    "base": {"hidden_size": 768, "n_layers": 12, "n_heads": 12, "ffn_size": 3072, "pos_kernel": 128},
}
_CONV_CHANNELS: Mapping[Family, Mapping[Size, int]] = {
    "wav2vec2": {"tiny": 32, "small": 128, "base": 512},
    "hubert": {"tiny": 32, "small": 128, "base": 512},
    "ecg_fm": {"tiny": 32, "small": 128, "base": 256},
}


def architecture_of(family: Family, size: Size) -> Architecture:
    """Return the shape of a named backbone."""
    is_ecg_fm = family == "ecg_fm"
    return Architecture(
        layout="hubert" if family == "hubert" else "wav2vec2",
        n_inputs=ECG_FM_LEADS if is_ecg_fm else 1,
        conv_channels=_CONV_CHANNELS[family][size],
        conv_kernels=ECG_FM_KERNELS if is_ecg_fm else SPEECH_KERNELS,
        conv_strides=ECG_FM_STRIDES if is_ecg_fm else SPEECH_STRIDES,
        **_SIZES[size],
    )


def build_network(architecture: Architecture, dropout: float = 0.0, *, masks: bool = True) -> Any:
    """Build a module in the layout of `transformers`, initialised from torch's global generator.

    A network of several inputs is made of the same modules but for its first convolution, so the whole library of
    methods for the layout works on it. Its own `forward` would take a single sequence: run its parts, as
    `trainables.backbones.backbone` does.

    Args:
        dropout: after attention and feed-forward, and of attention weights; layers are never skipped.
        masks: whether it has the vector that masked tokens get, `masked_spec_embed`.

    Returns:
        `transformers.Wav2Vec2Model` or `transformers.HubertModel`: feature_extractor, feature_projection, encoder.
    """
    config = network_config(architecture, dropout, masks=masks)
    network = _model_class(architecture.layout)(config)
    if architecture.n_inputs > 1:
        _widen(network.feature_extractor.conv_layers[0], architecture)
    return network


def network_config(architecture: Architecture, dropout: float = 0.0, *, masks: bool = True) -> Any:
    """Return the `transformers` configuration of a shape."""
    n_convs = len(architecture.conv_kernels)
    return _model_class(architecture.layout).config_class(
        hidden_size=architecture.hidden_size,
        num_hidden_layers=architecture.n_layers,
        num_attention_heads=architecture.n_heads,
        intermediate_size=architecture.ffn_size,
        conv_dim=(architecture.conv_channels,) * n_convs,
        conv_kernel=architecture.conv_kernels,
        conv_stride=architecture.conv_strides,
        num_feat_extract_layers=n_convs,
        num_conv_pos_embeddings=architecture.pos_kernel,
        num_conv_pos_embedding_groups=architecture.pos_groups,
        feat_extract_norm="group",
        do_stable_layer_norm=False,
        conv_bias=False,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        mask_time_prob=0.05 if masks else 0.0,  # any value above 0 makes the vector; masking itself is ours
        mask_feature_prob=0.0,
        layerdrop=0.0,  # a skipped layer would skip its adapter
    )


def _model_class(layout: Literal["wav2vec2", "hubert"]) -> Any:
    # Here: `transformers` takes seconds to import, which a trial of another method should not pay.
    from transformers import HubertModel, Wav2Vec2Model

    return HubertModel if layout == "hubert" else Wav2Vec2Model


def _widen(first: Any, architecture: Architecture) -> None:
    """Give the first convolution its inputs; initialised as the layout initialises convolutions."""
    kernel, stride = architecture.conv_kernels[0], architecture.conv_strides[0]
    first.conv = nn.Conv1d(architecture.n_inputs, architecture.conv_channels, kernel, stride, bias=False)
    nn.init.kaiming_normal_(first.conv.weight)
