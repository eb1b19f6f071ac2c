"""The experts that an ensemble may name: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from data.dataset import Signal
from trainables.experts.ecg_fm import EcgFm, EcgFmConfig
from trainables.experts.expert import Expert
from trainables.experts.forecasters import DLinearConfig, ForecastExpert, TimesNetConfig
from trainables.experts.hubert_ecg import HubertEcgExpert, HubertEcgExpertConfig
from trainables.experts.moment import Moment, MomentConfig
from trainables.experts.tempo import Tempo, TempoConfig
from trainables.experts.trained import Trained, TrainedConfig
from trainables.seeds import Use, derive_seed

AnyExpertConfig = Annotated[
    EcgFmConfig | MomentConfig | TempoConfig | DLinearConfig | TimesNetConfig | HubertEcgExpertConfig | TrainedConfig,
    Field(discriminator="kind"),
]
EXPERTS: Mapping[type[Any], Callable[[Any, Signal], Expert]] = {
    EcgFmConfig: EcgFm,
    MomentConfig: Moment,
    TempoConfig: Tempo,
    DLinearConfig: ForecastExpert,
    TimesNetConfig: ForecastExpert,
    HubertEcgExpertConfig: HubertEcgExpert,
    TrainedConfig: Trained,
}


def build_expert(config: AnyExpertConfig, signal: Signal) -> Expert:
    """Build an expert with its weights, frozen; on the meta device without them.

    Args:
        signal: of the records that it will read, in mV.

    Raises:
        ValueError: `signal` has not what the expert reads, or the weights can't be had; one line, with the way out.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Use.BACKBONE, config.weights_seed))
        expert = EXPERTS[type(config)](config, signal)
    if not any(parameter.is_meta for parameter in expert.parameters()):
        expert.load()
    return expert.freeze()


def check_experts(configs: Sequence[AnyExpertConfig], signal: Signal) -> None:
    """Build every expert once, so that a sweep knows before it starts that all can be had; hub files are fetched.

    Raises:
        ValueError: as `build_expert`.
    """
    for config in dict.fromkeys(configs):
        build_expert(config, signal)
