"""ECG-FM as fairseq-signals has it: its keys, its shapes and its arithmetic, written down anew from the publications.

B: records, C: leads, T: timesteps, E: tokens, D: hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.backbones.architecture import Architecture

State = dict[str, Tensor]


def state_of(architecture: Architecture, weight_norm: tuple[str, str] | None = None) -> State:
    """Return random weights under fairseq's keys, pre-training's heads included."""
    g, v = weight_norm or ("parametrizations.weight.original0", "parametrizations.weight.original1")
    c, d, f = architecture.conv_channels, architecture.hidden_size, architecture.ffn_size
    shapes: dict[str, tuple[int, ...]] = {
        "mask_emb": (d,),
        **{f"feature_extractor.conv_layers.{i}.0.weight": (c, 12 if i == 0 else c, 2) for i in range(4)},
        "feature_extractor.conv_layers.0.2.weight": (c,),
        "feature_extractor.conv_layers.0.2.bias": (c,),
        "layer_norm.weight": (c,),
        "layer_norm.bias": (c,),
        "post_extract_proj.weight": (d, c),
        "post_extract_proj.bias": (d,),
        "conv_pos.pos_conv.0.bias": (d,),
        f"conv_pos.pos_conv.0.{g}": (1, 1, architecture.pos_kernel),
        f"conv_pos.pos_conv.0.{v}": (d, d // 16, architecture.pos_kernel),
        "encoder.layer_norm.weight": (d,),
        "encoder.layer_norm.bias": (d,),
        "quantizer.vars": (1, 640, 128),
        "project_q.weight": (256, 256),
        "final_proj.weight": (256, d),
    }
    for n in range(architecture.n_layers):
        layer = f"encoder.layers.{n}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= {f"{layer}.self_attn.{name}.weight": (d, d), f"{layer}.self_attn.{name}.bias": (d,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{name}.weight": (d,), f"{layer}.{name}.bias": (d,)}
        shapes |= {f"{layer}.fc1.weight": (f, d), f"{layer}.fc1.bias": (f,)}
        shapes |= {f"{layer}.fc2.weight": (d, f), f"{layer}.fc2.bias": (d,)}
    return {key: 0.2 * torch.randn(shape) + 0.1 for key, shape in shapes.items()}


class OriginalAttention(nn.Module):
    """Self-attention that reads its projections' weights inside one functional call, as fairseq-signals' does."""

    def __init__(self, hidden_size: int, n_heads: int) -> None:
        super().__init__()
        self.hidden_size, self.n_heads = hidden_size, n_heads
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(hidden_size, hidden_size))

    def forward(self, hidden_BED: Tensor) -> Tensor:
        return attend(hidden_BED, self.n_heads, {name: getattr(self, name) for name in _PROJECTIONS})


_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


def attend(hidden_BED: Tensor, n_heads: int, linear: dict[str, nn.Linear]) -> Tensor:
    """Attend as `F.multi_head_attention_forward` does with separate projections."""
    hidden_EBD = hidden_BED.transpose(0, 1)
    q, k, v, out = (linear[name] for name in _PROJECTIONS)
    attended_EBD, _ = F.multi_head_attention_forward(
        *(hidden_EBD,) * 3,
        hidden_BED.shape[2],
        n_heads,
        None,
        torch.cat([q.bias, k.bias, v.bias]),
        None,
        None,
        False,
        0.0,
        out.weight,
        out.bias,
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=q.weight,
        k_proj_weight=k.weight,
        v_proj_weight=v.weight,
    )
    return attended_EBD.transpose(0, 1)


def encode(state: State, architecture: Architecture, ecg_BCT: Tensor) -> Tensor:
    """Return hidden_BED of ECG-FM with the weights `state`, evaluated."""
    d = architecture.hidden_size
    x = ecg_BCT
    for i in range(4):
        x = F.conv1d(x, state[f"feature_extractor.conv_layers.{i}.0.weight"], stride=2)
        if i == 0:
            x = F.group_norm(x, architecture.conv_channels, *_pair(state, "feature_extractor.conv_layers.0.2"))
        x = F.gelu(x)
    x = F.layer_norm(x.transpose(1, 2), (architecture.conv_channels,), *_pair(state, "layer_norm"))
    x = F.linear(x, *_pair(state, "post_extract_proj"))
    g, v = (state[f"conv_pos.pos_conv.0.parametrizations.weight.original{i}"] for i in (0, 1))
    kernel = g * v / v.norm(dim=(0, 1), keepdim=True)
    position = F.conv1d(
        x.transpose(1, 2), kernel, state["conv_pos.pos_conv.0.bias"], padding=architecture.pos_kernel // 2, groups=16
    )
    x = x + F.gelu(position[:, :, :-1]).transpose(1, 2)
    x = F.layer_norm(x, (d,), *_pair(state, "encoder.layer_norm"))
    for n in range(architecture.n_layers):
        layer = f"encoder.layers.{n}"
        linear = {name: _linear(*_pair(state, f"{layer}.self_attn.{name}")) for name in _PROJECTIONS}
        x = x + attend(x, architecture.n_heads, linear)
        x = F.layer_norm(x, (d,), *_pair(state, f"{layer}.self_attn_layer_norm"))
        inner = F.gelu(F.linear(x, *_pair(state, f"{layer}.fc1")))
        x = x + F.linear(inner, *_pair(state, f"{layer}.fc2"))
        x = F.layer_norm(x, (d,), *_pair(state, f"{layer}.final_layer_norm"))
    return x


def _pair(state: State, name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight), nn.Parameter(bias)
    return linear
