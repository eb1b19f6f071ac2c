"""DLinear and TimesNet as experts: what they forecast of a lead, learnt by `method: forecasting_pretrain`.

S: series, T: timesteps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from data.dataset import Signal
from trainables.experts.dlinear import DLinear
from trainables.experts.expert import ExpertInput
from trainables.experts.forecaster import CONTEXT, FS_HZ, Forecaster
from trainables.experts.series_expert import SeriesConfig, SeriesExpert
from trainables.experts.timesnet import TimesNet, TimesNetSize
from trainables.experts.weights import fill, find_weights, read_tensors

PREFIX = "network."  # of the forecaster within the model that the pretraining saves


class _ForecasterConfig(SeriesConfig):
    """What both have in common."""

    available: ClassVar[tuple[str, ...]] = ("forecast", "embeddings")

    weights: str = Field(
        "random",
        min_length=1,
        description="What the expert is: the best/ folder or the file that a forecasting_pretrain leaves (in a "
        "chain {from: STAGE.best.weights}), bundled (this repository's, where there is one) or random.",
    )
    features: tuple[str, ...] = Field(
        ("forecast",),
        strict=False,
        min_length=1,
        description="forecast: the timesteps after the window, in deviations of the lead; embeddings: of dlinear the "
        "forecast's trend and season, of timesnet the mean over time of its last layer.",
    )
    horizon: int = Field(
        1, ge=1, le=500, description="Timesteps that it forecasts, as many as in its training.",
        json_schema_extra={"unit": "timesteps"},
    )  # fmt: skip


class DLinearConfig(_ForecasterConfig):
    """DLinear: 10 s of a lead in 500 timesteps, a moving average of 1,001."""

    kind: Literal["dlinear"] = "dlinear"


class TimesNetConfig(_ForecasterConfig):
    """TimesNet: 10 s of a lead in 500 timesteps."""

    kind: Literal["timesnet"] = "timesnet"
    size: TimesNetSize = Field("full", description="full: EnECG's width and depth; tiny is for a CPU.")


class ForecastExpert(SeriesExpert):
    """forecast: `config.horizon` a lead; embeddings: the network's width a lead."""

    config: DLinearConfig | TimesNetConfig

    def __init__(self, config: DLinearConfig | TimesNetConfig, signal: Signal) -> None:
        network = _build_network(config)
        wanted = ExpertInput(config.leads, FS_HZ, CONTEXT, "lead")
        super().__init__(config, signal, {"forecast": config.horizon, "embeddings": network.width}, wanted)
        self.network = network

    def load(self) -> None:
        if self.config.weights == "random":
            return
        size = "full" if isinstance(self.config, DLinearConfig) else self.config.size
        path = find_weights(self.config, self.config.kind, size, {})
        tensors = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(path).items()}
        fill(self.network, tensors, path)

    def encode_series(self, series_ST: Tensor) -> Mapping[str, Tensor]:
        forecast = self.network(series_ST)
        return {"forecast": forecast.forecast_SF, "embeddings": forecast.embedding_SD}


def _build_network(config: DLinearConfig | TimesNetConfig) -> Forecaster:
    if isinstance(config, DLinearConfig):
        return DLinear(config.horizon)
    return TimesNet(config.horizon, config.size, dropout=0.0)
