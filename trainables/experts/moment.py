"""MOMENT (Goswami et al. 2024, arXiv:2402.03885) as an expert: what its T5 encoder makes of every lead, on average.

Layout and numbers are those of github.com/moment-timeseries-foundation-model/moment (momentfm) and of the files that
it loads, huggingface.co/AutonLab/MOMENT-1-{small,base,large}.

R: windows, L: leads, S: series (one lead of one window), T: timesteps, P: patches, D: width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.dataset import Signal
from trainables.experts.config import ExpertConfig
from trainables.experts.expert import ExpertInput
from trainables.experts.weights import fill, find_weights, read_tensors
from trainables.experts.window_expert import WindowExpert

MomentSize = Literal["tiny", "small", "base", "large"]

N_TIMESTEPS: Final = 512  # that it was trained on
FS_HZ: Final = 51.2  # so that a window is 10 s, as its authors give it an ECG
PATCH: Final = 8
N_PATCHES: Final = N_TIMESTEPS // PATCH
NORM_EPS: Final = 1e-5
PUBLIC: Final[Mapping[str, str]] = MappingProxyType(
    {size: f"AutonLab/MOMENT-1-{size}" for size in ("small", "base", "large")}
)
# Fixed positions, the text vocabulary that time series never read, and the head that reconstructs them.
_UNUSED: Final = re.compile(r"patch_embedding\.position_embedding\.pe|encoder\.embed_tokens\.weight|head\..+")


@dataclass(frozen=True)
class Shape:
    """What a size fixes, that of flan-t5."""

    d_model: int
    d_ff: int
    n_heads: int
    n_layers: int
    d_kv: int = 64


SHAPES: Final[Mapping[MomentSize, Shape]] = MappingProxyType(
    {
        "tiny": Shape(64, 128, 4, 2, d_kv=16),  # ours, for a CPU
        "small": Shape(512, 1024, 6, 8),
        "base": Shape(768, 2048, 12, 12),
        "large": Shape(1024, 2816, 16, 24),
    }
)


class MomentConfig(ExpertConfig):
    """MOMENT: 10 s in 512 timesteps, each lead for itself."""

    available: ClassVar[tuple[str, ...]] = ("embeddings",)

    kind: Literal["moment"] = "moment"
    size: MomentSize = Field("tiny", description="Width and depth; tiny is for a CPU, the others are published.")
    features: tuple[str, ...] = Field(
        ("embeddings",), strict=False, min_length=1, description="embeddings: the mean over patches and leads."
    )


class MomentNetwork(nn.Module):
    """Frozen encoder: series_ST and the steps of them that are signal -> embedding_SD. Names are as published."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(shape.d_model)
        self.encoder: Any = _build_encoder(shape)

    def forward(self, series_ST: Tensor, is_signal_ST: Tensor) -> Tensor:
        """Average over the patches that hold nothing but signal; a series without one gives zeros."""
        is_whole_SP = is_signal_ST.reshape(-1, N_PATCHES, PATCH).amin(dim=2)
        hidden_SPD = self.patch_embedding(_normalise(series_ST, is_signal_ST), is_whole_SP)
        hidden_SPD = self._encode(hidden_SPD, is_whole_SP)
        sums_SD = (hidden_SPD * is_whole_SP[:, :, None]).sum(dim=1)
        return sums_SD / is_whole_SP.sum(dim=1, keepdim=True).clamp(min=1)

    def _encode(self, hidden_SPD: Tensor, is_whole_SP: Tensor) -> Tensor:
        blocks = self.encoder.block
        bias_1HPP = blocks[0].layer[0].SelfAttention.compute_bias(N_PATCHES, N_PATCHES)
        mask_S11P = (1 - is_whole_SP[:, None, None, :]) * torch.finfo(hidden_SPD.dtype).min
        for block in blocks:
            hidden_SPD = block(hidden_SPD, attention_mask=mask_S11P, position_bias=bias_1HPP)[0]
        normed_SPD: Tensor = self.encoder.final_layer_norm(hidden_SPD)
        return normed_SPD


class PatchEmbedding(nn.Module):
    """Patches of 8 timesteps to tokens: a linear layer, or a learned vector where one is not all signal; positions."""

    position_PD: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.value_embedding = nn.Linear(PATCH, d_model, bias=False)
        nn.init.orthogonal_(self.value_embedding.weight, gain=1.41)
        self.mask_embedding = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("position_PD", _positions(N_PATCHES, d_model), persistent=False)

    def forward(self, series_ST: Tensor, is_whole_SP: Tensor) -> Tensor:
        value_SPD: Tensor = self.value_embedding(series_ST.reshape(-1, N_PATCHES, PATCH))
        token_SPD = torch.where(is_whole_SP[:, :, None] > 0, value_SPD, self.mask_embedding)
        return token_SPD + self.position_PD


def _positions(n_patches: int, d_model: int) -> Tensor:
    """Return position_PD (Vaswani et al. 2017, arXiv:1706.03762, section 3.5)."""
    angle_PF = torch.arange(n_patches)[:, None] * torch.exp(
        torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model)
    )
    return torch.stack([angle_PF.sin(), angle_PF.cos()], dim=2).flatten(1)


def _normalise(series_ST: Tensor, is_signal_ST: Tensor) -> Tensor:
    """Standardise every series over its signal (Kim et al. 2022, RevIN), without the learned scale.

    What lies behind it is normalised too, as there; no patch of it is read.
    """
    n_S1 = is_signal_ST.sum(dim=1, keepdim=True).clamp(min=1)
    mean_S1 = (series_ST * is_signal_ST).sum(dim=1, keepdim=True) / n_S1
    variance_S1 = ((series_ST - mean_S1).square() * is_signal_ST).sum(dim=1, keepdim=True) / n_S1
    return (series_ST - mean_S1) / (variance_S1.sqrt() + NORM_EPS)


def _build_encoder(shape: Shape) -> Any:
    # Here: `transformers` takes seconds to import, which a trial without this expert should not pay.
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=1,  # no text is read
        eos_token_id=None,
        d_model=shape.d_model,
        d_ff=shape.d_ff,
        d_kv=shape.d_kv,
        num_heads=shape.n_heads,
        num_layers=shape.n_layers,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        dropout_rate=0.0,
    )
    config._attn_implementation = "eager"  # one way to compute, whatever the library would choose
    encoder: Any = T5EncoderModel(config).get_encoder()
    del encoder.embed_tokens
    return encoder


class Moment(WindowExpert):
    """embeddings: width of the encoder."""

    config: MomentConfig

    def __init__(self, config: MomentConfig, signal: Signal) -> None:
        shape = SHAPES[config.size]
        wanted = ExpertInput(signal.lead_names, FS_HZ, N_TIMESTEPS, "none")
        super().__init__(config, signal, {"embeddings": shape.d_model}, wanted)
        self.network = MomentNetwork(shape)

    def load(self) -> None:
        if self.config.weights == "random":
            return
        path = find_weights(self.config, "moment", self.config.size, PUBLIC)
        tensors = read_tensors(path)
        fill(self.network, {name: each for name, each in tensors.items() if not _UNUSED.fullmatch(name)}, path)

    def encode(self, ecg_RLT: Tensor, is_signal_RT: Tensor) -> Mapping[str, Tensor]:
        n_leads = ecg_RLT.shape[1]
        is_signal_ST = is_signal_RT[:, None].expand(-1, n_leads, -1).flatten(0, 1)
        embedding_SD = self.network(ecg_RLT.flatten(0, 1), is_signal_ST)
        return {"embeddings": embedding_SD.reshape(-1, n_leads, embedding_SD.shape[1]).mean(dim=1)}
