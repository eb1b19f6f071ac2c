"""Bottleneck adapters: small layers inside a transformer's layers, which `peft` does not have.

- houlsby (Houlsby et al. 2019, arXiv:1902.00751, figure 2): behind the attention and behind the feed-forward part.
- pfeiffer (Pfeiffer et al. 2021, arXiv:2005.00247): behind the feed-forward part alone.
- parallel (He et al. 2022, arXiv:2110.04366): beside the feed-forward part, reading its input.

All of them before the sub-layer's residual is added and its norm taken. S: sequences, E: tokens, D: hidden size.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

Activation = Literal["gelu", "relu"]
Placement = Literal["houlsby", "pfeiffer", "parallel"]


class Bottleneck(nn.Module):
    """up(act(down(x))) with dropout before `up`, which begins at zero: a fresh adapter changes nothing."""

    def __init__(self, hidden_size: int, width: int, activation: Activation, dropout: float) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, width)
        self.activation = nn.GELU() if activation == "gelu" else nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(width, hidden_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden_SED: Tensor) -> Tensor:
        change_SED: Tensor = self.up(self.dropout(self.activation(self.down(hidden_SED))))
        return change_SED


class Behind(nn.Module):
    """An adapter with its own residual: x + adapter(x)."""

    def __init__(self, adapter: Bottleneck) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, hidden_SED: Tensor) -> Tensor:
        changed_SED: Tensor = hidden_SED + self.adapter(hidden_SED)
        return changed_SED


class Beside(nn.Module):
    """A sub-layer and an adapter that read the same: sublayer(x) + adapter(x)."""

    def __init__(self, sublayer: nn.Module, adapter: Bottleneck) -> None:
        super().__init__()
        self.sublayer, self.adapter = sublayer, adapter

    def forward(self, hidden_SED: Tensor) -> Tensor:
        changed_SED: Tensor = self.sublayer(hidden_SED) + self.adapter(hidden_SED)
        return changed_SED


def insert_adapters(
    layers: Iterable[nn.Module],
    placement: Placement,
    hidden_size: int,
    width: int,
    activation: Activation = "gelu",
    dropout: float = 0.0,
) -> None:
    """Put fresh adapters into transformer layers of `transformers`' wav2vec2 layout, in place.

    There the output of `dropout` is the attention's before its residual, that of `feed_forward` the other's.
    """
    for layer in layers:
        points = ("dropout", "feed_forward") if placement == "houlsby" else ("feed_forward",)
        for point in points:
            sublayer = getattr(layer, point)
            adapter = Bottleneck(hidden_size, width, activation, dropout)
            setattr(layer, point, Beside(sublayer, adapter) if placement == "parallel" else _behind(sublayer, adapter))


def _behind(sublayer: nn.Module, adapter: Bottleneck) -> nn.Sequential:
    return nn.Sequential(OrderedDict[str, nn.Module](sublayer=sublayer, adapted=Behind(adapter)))
