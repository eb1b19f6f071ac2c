"""A small convolutional network with free widths: one convolution and one halving of time a layer."""

from __future__ import annotations

from torch import nn

from trainables.layers import MaxMeanPool, Norm, build_norm, conv


def build_cnn(
    widths: tuple[int, ...], kernel_size: int, norm: Norm, n_leads: int, n_outputs: int, dropout: float
) -> nn.Sequential:
    """Build a network with one layer (convolution, norm, ReLU, max-pool 2) a width: ecg_BLT -> logits_BK.

    Needs at least 2 ** len(widths) timesteps.
    """
    layers: list[nn.Module] = []
    channels = n_leads
    for width in widths:
        layers += [conv(channels, width, kernel_size), build_norm(norm, width), nn.ReLU(inplace=True), nn.MaxPool1d(2)]
        channels = width
    return nn.Sequential(*layers, MaxMeanPool(), nn.Dropout(dropout), nn.Linear(2 * channels, n_outputs))
