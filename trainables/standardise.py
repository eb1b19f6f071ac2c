"""The edges of a model: leads standardised going in, predictions in the targets' units coming out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import LabelSet, Signal
from trainables.losses import location_and_scale

SMALLEST_DEVIATION = 1e-6  # below it a lead is flat, and stays 0


class Standardise(nn.Module):
    """z-score each lead of each window: ecg_BLT -> ecg_BLT with mean 0 and deviation 1; a flat lead becomes 0.

    Timesteps at a window's end that are zero in all leads are padding: they do not count, and stay zero. Found in the
    signal itself, so that an exported model needs no second input.
    """

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        signal_B1T = before_padding(ecg_BLT)
        n_B11 = signal_B1T.sum(dim=2, keepdim=True).clamp(min=1)
        centred_BLT = (ecg_BLT - ecg_BLT.sum(dim=2, keepdim=True) / n_B11) * signal_B1T
        deviation_BL1 = (centred_BLT.square().sum(dim=2, keepdim=True) / n_B11).sqrt()
        return centred_BLT / deviation_BL1.clamp(min=SMALLEST_DEVIATION)


def before_padding(ecg_BLT: Tensor) -> Tensor:
    """Return signal_B1T: 1 up to the last timestep at which any lead is not zero, 0 after it."""
    number_T = torch.arange(1, ecg_BLT.shape[2] + 1, device=ecg_BLT.device)
    length_B11 = ((ecg_BLT != 0).any(dim=1, keepdim=True) * number_T).amax(dim=2, keepdim=True)
    return (number_T <= length_B11).to(ecg_BLT.dtype)


class OutputUnits(nn.Module):
    """Turn standardised predictions into the targets' units: values_BK = predictions_BK * scale_K + location_K.

    Without it a network would have to grow its last layer to hundreds of ms before it learns anything.
    """

    location_K: Tensor
    scale_K: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.register_buffer("location_K", torch.zeros(n_outputs))
        self.register_buffer("scale_K", torch.ones(n_outputs))

    def forward(self, predictions_BK: Tensor) -> Tensor:
        return predictions_BK * self.scale_K + self.location_K


def with_edges(network: nn.Module, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Return `network` with what `signal` asks for before it and what `label_set` asks for behind it."""
    layers = [Standardise()] if signal.standardise_windows else []
    layers.append(network)  # type: ignore[arg-type]
    if label_set.task == "regression":
        layers.append(OutputUnits(label_set.n_outputs))  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def fit_output_units(model: nn.Module, train_labels_NK: NDArray[np.float32]) -> None:
    """Set the units of every `OutputUnits` in `model` from the labels of the training folds."""
    location_K, scale_K = location_and_scale(train_labels_NK)
    for module in model.modules():
        if isinstance(module, OutputUnits):
            module.location_K.copy_(torch.from_numpy(location_K))
            module.scale_K.copy_(torch.from_numpy(scale_K))
