"""The ECM/ATML search of tiny networks: candidate architectures, and their widths.

After github.com/JokerJostar/ECM-ATML_loongarch64, with its training recipe: AdamW, the learning rate halved on a
plateau, and a stop where the validation loss stands still *and* the network over-fits. Unlike there, every trial starts
from fresh weights that its seed decides, and the best epoch is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.candidates import CANDIDATES
from trainables.candidates.candidate import Candidate, Sizes
from trainables.config import Governed, Schedule, StoppingRule, TrainConfig
from trainables.contest import SCORES, is_degenerate, pooled_scores, subject_scores
from trainables.degeneracy import DEGENERATE
from trainables.evaluation import Evaluation
from trainables.method import Method
from trainables.seeds import Use, derive_seed
from trainables.standardise import with_edges
from trainables.trainer import fit, no_more_scores, reports
from trainables.trial import Trial
from trainables.windows import window_timesteps

if TYPE_CHECKING:
    Model = str
else:
    Model = Literal[tuple(CANDIDATES)]  # a candidate is named in one place

Width = Annotated[int, Field(ge=1, le=4096)]
Layer = Annotated[str, Field(pattern=r"^layer[1-9]\d*$")]
Factor = Annotated[int, Field(ge=1, le=5)]
PUBLISHED_CHANNEL_FACTOR, PUBLISHED_FC_FACTOR = 4, 2  # at which a candidate has the widths it was published with

_FACTORS = ("widths", frozenset({"factors"}))
_LAYERS = ("widths", frozenset({"layers"}))


class AtmlConfig(TrainConfig):
    """The parameters of `method: atml`."""

    governed: ClassVar[Governed] = {
        **TrainConfig.governed,
        "channel_factor": _FACTORS,
        "fc_factor": _FACTORS,
        "channels": _LAYERS,
        "fc_width": _LAYERS,
    }

    model: Model = Field("AFNet", description="Candidate architecture.")
    widths: Literal["published", "factors", "layers"] = Field(
        "published", description="Widths as published, times two factors, or each layer's own."
    )
    channel_factor: Factor = Field(
        PUBLISHED_CHANNEL_FACTOR, description="The original's s: filters of every layer, times s / 4."
    )
    fc_factor: Factor = Field(
        PUBLISHED_FC_FACTOR, description="The original's f: units of the hidden fully connected layer, times f / 2."
    )
    channels: Annotated[tuple[Width, ...], Field(strict=False)] | dict[Layer, Width] | None = Field(
        None,
        description="Filters of each layer as a list, or of some as a mapping `{layer1: 8, layer3: 20}`, which can be "
        "searched layer by layer; what is left out is as published.",
        json_schema_extra={"unit": "filters"},
    )
    fc_width: Width | None = Field(
        None,
        description="Units of the hidden fully connected layer; null: as published.",
        json_schema_extra={"unit": "units"},
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout before the last layers, where the candidate has it.")

    batch_size: int = Field(
        32,
        ge=1,
        description="Records an optimiser step, over all workers together.",
        json_schema_extra={"unit": "records"},
    )
    lr: float = Field(1.5e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(
        1e-3, ge=0, description="Weight decay, of weight matrices and kernels only: not of biases and norms."
    )
    schedule: Schedule = Field(
        "plateau",
        description="Learning rate over training, as in the shared trainer; plateau: times decay_factor after "
        "decay_epochs without a better val/loss.",
    )
    early_stopping: StoppingRule = Field(
        "plateau_and_gap",
        description="plateau: val/loss has not improved for `patience` epochs; plateau_and_gap: and train/loss lies "
        "more than `min_gap` below val/loss.",
    )

    @model_validator(mode="after")
    def _widths_exist(self) -> AtmlConfig:
        """Refuse a width of a layer that the candidate does not have."""
        candidate, n_layers = self.candidate, len(self.candidate.channels)
        if isinstance(self.channels, tuple) and len(self.channels) != n_layers:
            raise ValueError(
                f"channels as a list needs one width a layer, {n_layers} for {self.model}, but got {len(self.channels)}"
            )
        unknown = [name for name in self.named_channels if int(name.removeprefix("layer")) > n_layers]
        if unknown:
            raise ValueError(f"channels: {self.model} has {n_layers} layers with filters, but got {unknown[0]}")
        if not n_layers and self.channel_factor != PUBLISHED_CHANNEL_FACTOR:
            raise ValueError(f"channel_factor: {self.model} has no filters to multiply, but got {self.channel_factor}")
        if not candidate.fc_width and (self.fc_width is not None or self.fc_factor != PUBLISHED_FC_FACTOR):
            name, value = ("fc_factor", self.fc_factor) if self.fc_width is None else ("fc_width", self.fc_width)
            raise ValueError(
                f"{name}: {self.model} has no hidden fully connected layer, but got {value}; "
                f"in a search space write `when: {{model: ...}}`"
            )
        return self

    @property
    def candidate(self) -> type[Candidate]:
        return CANDIDATES[self.model]

    @property
    def named_channels(self) -> dict[str, int]:
        return self.channels if isinstance(self.channels, dict) else {}

    @property
    def resolved_channels(self) -> tuple[int, ...]:
        """The filters of each layer; never fewer than the candidate can do with."""
        published, least = self.candidate.channels, self.candidate.least_channels
        if isinstance(self.channels, tuple):
            asked: Sequence[int] = self.channels
        elif self.widths == "factors":
            asked = [_scaled(width, self.channel_factor, PUBLISHED_CHANNEL_FACTOR) for width in published]
        else:
            named = self.named_channels
            asked = [named.get(f"layer{number}", width) for number, width in enumerate(published, start=1)]
        return tuple(max(least, width) for width in asked)

    @property
    def resolved_fc_width(self) -> int:
        """The units of the hidden fully connected layer; 0 where the candidate has none."""
        published = self.candidate.fc_width
        if self.fc_width is not None:
            return self.fc_width
        return _scaled(published, self.fc_factor, PUBLISHED_FC_FACTOR) if published else 0


def _scaled(width: int, factor: int, published_factor: int) -> int:
    return max(1, round(width * factor / published_factor))


def build_model(config: AtmlConfig, signal: Signal, label_set: LabelSet) -> nn.Module:
    """Build the candidate, ecg_BLT -> logits_BK, initialised from torch's global generator.

    Raises:
        ValueError: the records, or windows, are too short for it.
    """
    sizes = Sizes(
        n_leads=len(signal.lead_names),
        n_timesteps=window_timesteps(config, signal),
        n_outputs=label_set.n_outputs,
        channels=config.resolved_channels,
        fc_width=config.resolved_fc_width,
        dropout=config.dropout,
    )
    return with_edges(config.candidate(sizes), signal, label_set)


def train(config: AtmlConfig, dataset: Dataset, trial: Trial) -> None:
    """Train a freshly initialised candidate; see `trainables.trainer.fit`.

    On a binary task every report has the contest's scores too, and whether the classifier is degenerate.
    """
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    is_binary = dataset.label_set.task == "binary"
    scores = partial(contest_numbers, subject_N=dataset.val.patient_ids, beta=config.threshold_beta)
    fit(model, config, dataset, trial, more_scores=scores if is_binary else no_more_scores)


def contest_numbers(evaluation: Evaluation, subject_N: NDArray[np.str_], beta: float) -> dict[str, float]:
    """Return the contest's view of a binary model's answers: `npv`, means over subjects, `g_score`, `degenerate`."""
    called_N = evaluation.predicted_NK[:, 0] >= evaluation.thresholds_K[0]
    truth_N = evaluation.labels_NK[:, 0] > 0.5
    by_subject = subject_scores(called_N, truth_N, subject_N, beta)
    return {
        "npv": pooled_scores(called_N, truth_N, beta)["npv"],
        "g_score": by_subject.pop("g_score"),
        **{f"subject_{name}": value for name, value in by_subject.items()},
        DEGENERATE: float(is_degenerate(called_N, truth_N)),
    }


def atml_reports(task: Task) -> frozenset[str]:
    """Return the names of what `train` reports every epoch."""
    own = {"npv", "g_score", DEGENERATE, *(f"subject_{name}" for name in SCORES)} if task == "binary" else set()
    return reports(task) | {f"val/{name}" for name in own}


ATML = Method("atml", AtmlConfig, build_model, train, atml_reports)
