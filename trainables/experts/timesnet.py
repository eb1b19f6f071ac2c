"""TimesNet (Wu et al. 2023, arXiv:2210.02186): a series folded at its periods into images, read by 2-D convolutions.

Two things are not the original's. It takes its periods from the mean spectrum of a batch, so that what a record gives
depends on those beside it; here they are those of the training records, found once, and the same in all layers. And
its six convolutions of one layer, whose mean is taken, run as one of the largest size: their kernels' mean.

S: series, T: timesteps with the forecast's, N: width, P: period, K: periods, F: forecast timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import torch
from torch import Tensor, nn

from trainables.experts.forecaster import CONTEXT, Forecast, Forecaster

TimesNetSize = Literal["tiny", "full"]

NORM_EPS: Final = 1e-5


@dataclass(frozen=True)
class Shape:
    """What a size fixes."""

    d_model: int
    d_ff: int
    n_kernels: int
    top_k: int
    n_layers: int


SHAPES: Final[Mapping[TimesNetSize, Shape]] = MappingProxyType(
    {"tiny": Shape(4, 8, 2, 2, 1), "full": Shape(16, 32, 6, 3, 3)}  # full: EnECG's
)


class TimesNet(Forecaster):
    """Its embedding is the mean over time of the last layer."""

    frequencies_K: Tensor

    def __init__(self, horizon: int, size: TimesNetSize, dropout: float) -> None:
        super().__init__(horizon)
        shape = SHAPES[size]
        self.width = shape.d_model
        self.embed = Embedding(shape.d_model, dropout)
        self.extend = nn.Linear(CONTEXT, CONTEXT + horizon)
        self.blocks = nn.ModuleList(TimesBlock(shape, CONTEXT + horizon) for _ in range(shape.n_layers))
        self.norm = nn.LayerNorm(shape.d_model)
        self.project = nn.Linear(shape.d_model, 1)
        # Waves in the context; the first until `fit`.
        self.register_buffer("frequencies_K", torch.arange(1, shape.top_k + 1))

    def fit(self, series_ST: Tensor) -> None:
        """Take the frequencies that are strongest in the series, on average."""
        amplitude_F = torch.fft.rfft(_normalise(series_ST)[0], dim=1).abs().mean(dim=0)
        amplitude_F[0] = 0
        self.frequencies_K.copy_(amplitude_F.topk(len(self.frequencies_K)).indices)

    def forward(self, series_ST: Tensor) -> Forecast:
        normed_ST, mean_S1, deviation_S1 = _normalise(series_ST)
        hidden_STN = self.extend(self.embed(normed_ST).transpose(1, 2)).transpose(1, 2)
        frequencies = self.frequencies_K.tolist()
        for block in self.blocks:
            hidden_STN = self.norm(block(hidden_STN, frequencies))
        forecast_SF = self.project(hidden_STN[:, CONTEXT:])[:, :, 0] * deviation_S1 + mean_S1
        return Forecast(forecast_SF, hidden_STN.mean(dim=1))


class Embedding(nn.Module):
    """Each timestep with its two neighbours, round the ends, and where it lies: normed_ST -> hidden_STN."""

    position_TN: Tensor

    def __init__(self, d_model: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(1, d_model, 3, padding=1, padding_mode="circular", bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_in", nonlinearity="leaky_relu")
        rate_H = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10_000.0) / d_model))
        angle_TH = torch.arange(CONTEXT)[:, None] * rate_H
        position_TN = torch.stack([angle_TH.sin(), angle_TH.cos()], dim=2).flatten(1)
        self.register_buffer("position_TN", position_TN, persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, normed_ST: Tensor) -> Tensor:
        hidden_STN: Tensor = self.dropout(self.convolution(normed_ST[:, None]).transpose(1, 2) + self.position_TN)
        return hidden_STN


class TimesBlock(nn.Module):
    """hidden_STN -> hidden_STN: the series read as images, one a period, weighed by the periods' amplitudes."""

    def __init__(self, shape: Shape, n_timesteps: int) -> None:
        super().__init__()
        self._n_timesteps = n_timesteps
        self.read = nn.Sequential(
            Inception(shape.d_model, shape.d_ff, shape.n_kernels),
            nn.GELU(),
            Inception(shape.d_ff, shape.d_model, shape.n_kernels),
        )

    def forward(self, hidden_STN: Tensor, frequencies: list[int]) -> Tensor:
        weight_SK = _amplitudes(hidden_STN, self._n_timesteps, frequencies).softmax(dim=1)
        images = [self._read_folded(hidden_STN, max(1, CONTEXT // max(1, each))) for each in frequencies]
        return (torch.stack(images, dim=3) * weight_SK[:, None, None, :]).sum(dim=3) + hidden_STN

    def _read_folded(self, hidden_STN: Tensor, period: int) -> Tensor:
        n_timesteps, lacking = self._n_timesteps, -self._n_timesteps % period
        wave_SNT = nn.functional.pad(hidden_STN.transpose(1, 2), (0, lacking))
        image_SNRP = wave_SNT.reshape(-1, wave_SNT.shape[1], (n_timesteps + lacking) // period, period)
        read_SNRP: Tensor = self.read(image_SNRP)
        return read_SNRP.flatten(2)[:, :, :n_timesteps].transpose(1, 2)


class Inception(nn.Module):
    """The mean of convolutions of 1, 3, 5, ... (times as many): image_SCRP -> image_SORP."""

    def __init__(self, n_in: int, n_out: int, n_kernels: int) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(
            nn.init.kaiming_normal_(torch.empty(n_out, n_in, 2 * half + 1, 2 * half + 1), mode="fan_out")
            for half in range(n_kernels)
        )
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, image_SCRP: Tensor) -> Tensor:
        widest = len(self.kernels) - 1
        padded = [nn.functional.pad(kernel, (widest - half,) * 4) for half, kernel in enumerate(self.kernels)]
        # A shape in numbers: the exporter knows none of what `pad` returns.
        kernel_OCKK = torch.stack(padded).mean(dim=0).reshape(self.kernels[-1].shape)
        return nn.functional.conv2d(image_SCRP, kernel_OCKK, self.bias, padding=widest)


def _normalise(series_ST: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the series with mean 0 and deviation 1, and both as they were."""
    mean_S1 = series_ST.mean(dim=1, keepdim=True)
    deviation_S1 = (series_ST.var(dim=1, keepdim=True, unbiased=False) + NORM_EPS).sqrt()
    return (series_ST - mean_S1) / deviation_S1, mean_S1, deviation_S1


def _amplitudes(hidden_STN: Tensor, n_timesteps: int, frequencies: list[int]) -> Tensor:
    """Return the amplitude of some frequencies, the mean over the width; written out, as ONNX has no such transform."""
    time_T = torch.arange(n_timesteps, device=hidden_STN.device, dtype=hidden_STN.dtype)
    angle_KT = torch.stack([2 * math.pi * each / n_timesteps * time_T for each in frequencies])
    real_SKN = angle_KT.cos() @ hidden_STN
    imaginary_SKN = angle_KT.sin() @ hidden_STN
    return (real_SKN.square() + imaginary_SKN.square() + 1e-12).sqrt().mean(dim=2)  # no gradient at 0 otherwise
