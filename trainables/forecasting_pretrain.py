"""Pretraining by forecasting: the next timesteps of a lead from the 500 before them, as EnECG's DLinear and TimesNet.

B: records, L: leads, S: series (one lead of one record), T: timesteps, F: forecast timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from data.dataset import Batch, Dataset, LabelSet, Signal, Split, Task
from trainables.config import Governed
from trainables.experts.dlinear import DLinear
from trainables.experts.forecaster import CONTEXT, FS_HZ, Forecaster, ForecasterKind
from trainables.experts.timesnet import TimesNet, TimesNetSize
from trainables.experts.weights import fill, read_tensors
from trainables.hubert_ecg_weights import weights_file
from trainables.method import Method
from trainables.pretraining.config import PretrainConfig
from trainables.pretraining.masks import RecordStreams
from trainables.pretraining.trainer import Part, Prepared, Role, pretrain, report_names
from trainables.seeds import Use, derive_seed
from trainables.trial import Trial

PARTS: Final = (Part("mse", 1.0), Part("mae", 0.0), Part("persistence_mse", 0.0))
FITTED_RECORDS: Final = 512  # whose series a network looks at before its first step


class ForecastingPretrainConfig(PretrainConfig):
    """The parameters of `method: forecasting_pretrain`."""

    governed: ClassVar[Governed] = {
        **PretrainConfig.governed,
        "size": ("network", frozenset({"timesnet"})),
        "dropout": ("network", frozenset({"timesnet"})),
    }

    network: ForecasterKind = Field("dlinear", description="What learns to forecast.")
    size: TimesNetSize = Field("full", description="timesnet: full: EnECG's width and depth; tiny is for a CPU.")
    horizon: int = Field(
        1, ge=1, le=500, description="Timesteps that are forecast.", json_schema_extra={"unit": "timesteps"}
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="timesnet: dropout of the embedding.")


class Forecasting(nn.Module):
    """A forecaster of every lead; a `trainables.pretraining.trainer.PretrainModel`.

    `forward` gives what it forecasts to come after each record, lead by lead: ecg_BLT -> forecast_BD.
    """

    criterion: Sequence[Part] = PARTS

    def __init__(self, network: Forecaster) -> None:
        super().__init__()
        self.network = network

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        ecg_BLT = ecg_BLT[:, :, -CONTEXT:]
        lacking = CONTEXT - ecg_BLT.shape[2]
        context_BLT = torch.cat([ecg_BLT[:, :, :1].expand(-1, -1, lacking), ecg_BLT], dim=2)
        forecast_SF: Tensor = self.network(context_BLT.flatten(0, 1)).forecast_SF
        return forecast_SF.reshape(-1, ecg_BLT.shape[1] * self.network.horizon)

    def parts(self, *inputs: Tensor | None) -> Tensor:
        context_BLT, target_BLF = inputs
        assert context_BLT is not None and target_BLF is not None
        target_SF, last_S1 = target_BLF.flatten(0, 1), context_BLT.flatten(0, 1)[:, -1:]
        error_SF = self.network(context_BLT.flatten(0, 1)).forecast_SF - target_SF
        return torch.stack([error_SF.square().sum(), error_SF.abs().sum(), (last_S1 - target_SF).square().sum()])

    def begin_step(self, step: int) -> None:
        """Nothing of it depends on the step."""

    def set_dropout(self, dropout: float) -> None:
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout


class Cuts:
    """Cuts each record in two: the timesteps to forecast, and the context before them.

    A cut lies anywhere with the whole context before it, drawn from (trial's seed, epoch, record), in validation the
    same in every epoch. In a record that is too short for any, it lies in the second half, and the first timestep
    stands for what is missing.
    """

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon

    def __call__(self, batch: Batch, role: Role, streams: RecordStreams) -> Prepared:
        pairs = zip(batch.length_B.tolist(), batch.index_B.tolist(), strict=True)
        end_B = [self._end(length, streams.generator(index)) for length, index in pairs]
        n_leads = batch.ecg_BLT.shape[1]
        context_BLT = np.zeros((len(end_B), n_leads, CONTEXT), np.float32)
        target_BLF = np.zeros((len(end_B), n_leads, self._horizon), np.float32)
        for row, end in enumerate(end_B):
            context_BLT[row] = _context(batch.ecg_BLT[row, :, :end])
            target_BLF[row] = batch.ecg_BLT[row, :, end : end + self._horizon]
        counts_P = torch.full((len(PARTS),), float(target_BLF.size))
        return Prepared((torch.from_numpy(context_BLT), torch.from_numpy(target_BLF)), counts_P, target_BLF.size)

    def _end(self, length: int, rng: np.random.Generator) -> int:
        """Return where the context ends."""
        last = length - self._horizon
        first = CONTEXT if last >= CONTEXT else max(1, length // 2 - self._horizon)
        return int(rng.integers(first, last, endpoint=True))


def _context(ecg_LT: NDArray[np.float32]) -> NDArray[np.float32]:
    ecg_LT = ecg_LT[:, -CONTEXT:]
    return np.pad(ecg_LT, ((0, 0), (CONTEXT - ecg_LT.shape[1], 0)), mode="edge")


def build_model(config: ForecastingPretrainConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the forecaster, initialised from torch's global generator.

    Raises:
        ValueError: the records have another rate than the expert that it becomes.
    """
    if signal.fs_hz != FS_HZ:
        raise ValueError(
            f"forecasters read records at {FS_HZ:g} Hz, but these have {signal.fs_hz:g}; put "
            f"`resample: {{fs_hz: {FS_HZ:g}}}` into data.preprocess"
        )
    return Forecasting(_build_network(config))


def _build_network(config: ForecastingPretrainConfig) -> Forecaster:
    if config.network == "dlinear":
        return DLinear(config.horizon)
    return TimesNet(config.horizon, config.size, config.dropout)


def train(config: ForecastingPretrainConfig, dataset: Dataset, trial: Trial) -> None:
    """Pretrain; see `trainables.pretraining.trainer.pretrain`.

    Raises:
        ValueError: a record has nothing before what is to be forecast, or the weights are not of this network.
    """
    shortest = min(int(split.length_N.min(initial=CONTEXT)) for split in (dataset.train, dataset.val))
    if shortest <= config.horizon:
        raise ValueError(f"horizon must be below the shortest record's {shortest} timesteps, but got {config.horizon}")
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    assert isinstance(model, Forecasting)
    if config.weights == "random":
        model.network.fit(_first_series(dataset.train))
    else:
        path = weights_file(config.weights)
        fill(model, read_tensors(path), path)
    pretrain(model, Cuts(config.horizon), config, dataset, trial)


def _first_series(split: Split) -> Tensor:
    """Return the contexts at the ends of the first records, series_ST; the same in every worker."""
    batch = next(split.batches(FITTED_RECORDS))
    rows = zip(batch.ecg_BLT, batch.length_B, strict=True)
    context_BLT = np.stack([_context(ecg_LT[:, :length]) for ecg_LT, length in rows])
    return torch.from_numpy(context_BLT).flatten(0, 1)


def reports(task: Task) -> frozenset[str]:
    """Return the names of what every report has."""
    return report_names(PARTS)


FORECASTING_PRETRAIN: Final = Method(
    "forecasting_pretrain",
    ForecastingPretrainConfig,
    build_model,
    train,
    reports,
    tasks=frozenset({"unlabelled"}),
)
