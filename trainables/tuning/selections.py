"""Ways to fine-tune that add nothing: they choose which parameters of the network are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


def transformer_norms(network: Any) -> Iterator[nn.Parameter]:
    """Yield weights and biases of the norms of the transformer; not of those between the convolutions."""
    for module in network.encoder.modules():
        if isinstance(module, nn.LayerNorm):
            yield from module.parameters()


def _nothing(network: Any, n_layers: int) -> Iterator[nn.Parameter]:
    yield from ()


def _everything(network: Any, n_layers: int) -> Iterator[nn.Parameter]:
    """Leave out the mask embedding, which only SpecAugment uses: a worker group waits for every gradient."""
    yield from (p for name, p in network.named_parameters() if name != "masked_spec_embed")


def _last_layers(network: Any, n_layers: int) -> Iterator[nn.Parameter]:
    layers = network.encoder.layers
    if n_layers > len(layers):
        raise ValueError(f"n_layers must be at most {len(layers)}, the layers of the backbone, but got {n_layers}")
    for layer in layers[len(layers) - n_layers :]:
        yield from layer.parameters()


def _biases(network: Any, n_layers: int) -> Iterator[nn.Parameter]:
    """BitFit (Ben Zaken et al. 2022, arXiv:2106.10199): the biases of the transformer's layers."""
    yield from (p for name, p in network.encoder.layers.named_parameters() if name.endswith("bias"))


def _norms(network: Any, n_layers: int) -> Iterator[nn.Parameter]:
    yield from transformer_norms(network)


SELECTIONS: Mapping[str, Callable[[Any, int], Iterator[nn.Parameter]]] = {
    "linear_probe": _nothing,
    "full": _everything,
    "last_layers": _last_layers,
    "bias": _biases,
    "ln_tuning": _norms,
}
