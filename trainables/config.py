"""What every method's training can be told: the base of their configs, and the source of `docs/spec.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.dataset import LabelSet, Signal, Task

Optimizer = Literal["adamw", "adam", "nadam", "sgd", "rmsprop"]
Schedule = Literal["constant", "cosine", "linear", "one_cycle", "step", "plateau"]
Loss = Literal["auto", "bce", "cross_entropy", "focal", "mse", "mae", "huber"]
StoppingRule = Literal["none", "plateau", "plateau_and_gap"]
ThresholdRule = Literal["half", "best_f1", "best_fbeta", "youden", "at_sensitivity"]
Pooling = Literal["max", "mean"]

Governed = Mapping[str, tuple[str, frozenset[Any]]]
"""parameter -> (the parameter that decides whether it is used, the values with which it is)."""

TASK_LOSSES: Mapping[Task, tuple[Loss, ...]] = {  # the first is the task's `auto`
    "binary": ("bce", "focal"),
    "multilabel": ("bce", "focal"),
    "multiclass": ("cross_entropy", "focal"),
    "regression": ("mse", "mae", "huber"),
}


def _unit(name: str) -> dict[str, Any]:
    return {"unit": name}


ADAMS: frozenset[Optimizer] = frozenset({"adamw", "adam", "nadam"})


class LoopConfig(BaseModel):
    """The parameters of any training loop, whatever it learns from: batches, optimiser, schedule, early stopping."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    governed: ClassVar[Governed] = {
        "momentum": ("optimizer", frozenset({"sgd", "rmsprop"})),
        "beta2": ("optimizer", ADAMS),
        "adam_eps": ("optimizer", ADAMS),
        "warmup_epochs": ("schedule", frozenset({"constant", "cosine", "step", "plateau"})),
        "decay_factor": ("schedule", frozenset({"step", "plateau"})),
        "decay_epochs": ("schedule", frozenset({"step", "plateau"})),
        "patience": ("early_stopping", frozenset({"plateau", "plateau_and_gap"})),
        "min_delta": ("early_stopping", frozenset({"plateau", "plateau_and_gap"})),
        "min_gap": ("early_stopping", frozenset({"plateau_and_gap"})),
    }

    epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Training passes; filled from `budget.epochs`.", json_schema_extra=_unit("epochs")
    )
    batch_size: int = Field(
        64,
        ge=1,
        description="Records an optimiser step, over all workers together.",
        json_schema_extra=_unit("records"),
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights stay fp32.")

    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    optimizer: Optimizer = Field("adamw", description="Optimiser.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd and rmsprop.")
    beta2: float = Field(0.999, gt=0, lt=1, description="Decay of the Adams' mean of squared gradients.")
    adam_eps: float = Field(1e-8, gt=0, description="What the Adams add to the root of that mean.")
    weight_decay: float = Field(
        1e-2, ge=0, description="Weight decay, of weight matrices and kernels only: not of biases and norms."
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest norm of the gradient; null: no clipping.")

    schedule: Schedule = Field(
        "cosine",
        description="Learning rate over training. linear: up over 8 %, then straight to nothing; one_cycle: up over "
        "30 %, then cosine to nothing; step: times decay_factor every decay_epochs; plateau: times decay_factor after "
        "decay_epochs without a better val/loss.",
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="Linear rise of the learning rate from nothing.", json_schema_extra=_unit("epochs")
    )
    decay_factor: float = Field(0.5, gt=0, lt=1, description="What the schedules step and plateau multiply lr by.")
    decay_epochs: int = Field(
        3, ge=1, description="How long the schedules step and plateau wait.", json_schema_extra=_unit("epochs")
    )

    early_stopping: StoppingRule = Field(
        "none",
        description="plateau: val/loss has not improved for `patience` epochs; plateau_and_gap: and train/loss lies "
        "more than `min_gap` below val/loss.",
    )
    patience: int = Field(
        3, ge=1, description="Epochs without a better val/loss before stopping.", json_schema_extra=_unit("epochs")
    )
    min_delta: float = Field(0.0, ge=0, description="By how much val/loss must fall to count as better.")
    min_gap: float = Field(0.01, ge=0, description="The over-fitting gap that plateau_and_gap asks for.")

    @model_validator(mode="after")
    def _used(self) -> Self:
        """Refuse a parameter that was set but that no other parameter lets work."""
        for name, (governor, values) in self.governed.items():
            value, governing = getattr(self, name), getattr(self, governor)
            if value != type(self).model_fields[name].default and governing not in values:
                allowed = ", ".join(sorted(map(str, values)))
                raise ValueError(
                    f"{name} works only with {governor}: {allowed}; got {name}={value!r} and {governor}={governing!r}; "
                    f"in a search space write `when: {{{governor}: ...}}`"
                )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.epochs is not None and self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs must be below epochs, but got {self.warmup_epochs} of {self.epochs}")
        return self


class TrainConfig(LoopConfig):
    """The parameters of the shared training loop; a method's own config adds to them."""

    governed: ClassVar[Governed] = {
        **LoopConfig.governed,
        "focal_gamma": ("loss", frozenset({"focal"})),
        "huber_delta": ("loss", frozenset({"huber"})),
        "threshold_sensitivity": ("threshold_rule", frozenset({"at_sensitivity"})),
    }

    accumulate_steps: int = Field(
        1,
        ge=1,
        description="Pieces in which a worker's share of a batch goes through the model: less memory, the same step "
        "(batch norm excepted, whose statistics are a piece's).",
    )
    loss: Loss = Field("auto", description="Training loss; auto: bce, cross_entropy or mse, by the task.")
    focal_gamma: float = Field(2.0, ge=0, description="Focusing exponent of the focal loss.")
    huber_delta: float = Field(
        1.0, gt=0, description="Where the Huber loss turns linear.", json_schema_extra=_unit("target's deviations")
    )
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: classes weigh inversely to their frequency in the training folds."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread evenly over the classes.")

    crop_timesteps: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Window a model sees: random in training, tiled in evaluation, within each record's own length; "
        "null: the whole record, padding included.",
        json_schema_extra=_unit("timesteps"),
    )
    window_stride: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Distance of the windows in evaluation; null: half a window.",
        json_schema_extra=_unit("timesteps"),
    )
    window_pooling: Pooling = Field(
        "mean", description="How a record's probabilities follow from its windows'; regression takes the mean."
    )

    amplitude_scale: float = Field(
        0.0, ge=0, lt=1, description="A record is scaled by a factor within 1 ± this; 0: off."
    )
    lead_dropout: float = Field(
        0.0, ge=0, lt=1, description="Chance that a lead is set to 0; one lead always stays; 0: off."
    )
    noise_mv: float = Field(
        0.0,
        ge=0,
        description="Deviation of white noise; in the unit that preprocessing leaves; 0: off.",
        json_schema_extra=_unit("mV"),
    )
    baseline_wander_mv: float = Field(
        0.0,
        ge=0,
        description="Amplitude of a slow drift (0.05 to 0.5 Hz); in the unit that preprocessing leaves; 0: off.",
        json_schema_extra=_unit("mV"),
    )
    mixup_alpha: float = Field(0.0, ge=0, description="Mixup: Beta(alpha, alpha) shares of two records; 0: off.")
    cutmix_alpha: float = Field(
        0.0, ge=0, description="CutMix: a box of leads x time from another record; with mixup: one of them; 0: off."
    )

    threshold_rule: ThresholdRule = Field(
        "half", description="Decision threshold of each class (binary, multilabel), fitted on validation."
    )
    threshold_beta: float = Field(
        2.0, gt=0, description="Weight of recall over precision in f_beta, the metric and the best_fbeta rule."
    )
    threshold_sensitivity: float = Field(0.9, gt=0, le=1, description="Sensitivity the at_sensitivity rule asks for.")

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.accumulate_steps > self.batch_size:
            raise ValueError(
                "accumulate_steps must not exceed batch_size, "
                f"but got {self.accumulate_steps} pieces of {self.batch_size} records"
            )
        if self.window_stride is not None and self.crop_timesteps is None:
            raise ValueError(
                f"window_stride needs crop_timesteps, but got window_stride={self.window_stride} for whole records"
            )
        if (self.window_stride or 0) > (self.crop_timesteps or 0):
            raise ValueError(
                "window_stride must not exceed crop_timesteps, or timesteps go unseen, "
                f"but got {self.window_stride} > {self.crop_timesteps}"
            )
        return self

    @property
    def varies(self) -> bool:
        """Whether a model sees a record otherwise in some epoch than in another, or in pieces."""
        augmented = (self.amplitude_scale, self.lead_dropout, self.noise_mv, self.baseline_wander_mv)
        mixed = (self.mixup_alpha, self.cutmix_alpha)
        return self.crop_timesteps is not None or any(augmented) or any(mixed)


def resolve_loss(config: TrainConfig, task: Task) -> Loss:
    """Return the loss that `config.loss` means for `task`."""
    return TASK_LOSSES[task][0] if config.loss == "auto" else config.loss


def check_config(config: TrainConfig, signal: Signal, label_set: LabelSet) -> None:
    """Refuse what does not fit the data set; cheap, so that a sweep can ask before it starts.

    Raises:
        ValueError: a parameter does not suit the task, or the window is longer than the records.
    """
    task = label_set.task
    if resolve_loss(config, task) not in TASK_LOSSES[task]:
        raise ValueError(
            f"loss for {task} labels must be one of auto, {', '.join(TASK_LOSSES[task])}, but got {config.loss!r}"
        )
    if config.crop_timesteps is not None and config.crop_timesteps > signal.n_timesteps:
        raise ValueError(
            f"crop_timesteps must not exceed the records' {signal.n_timesteps} timesteps, "
            f"but got {config.crop_timesteps}"
        )
    if task == "regression":
        _require_default(config, ("class_weights", "label_smoothing", "window_pooling"), task)
    if task in ("regression", "multiclass"):
        _require_default(config, ("threshold_rule",), task)


def _require_default(config: TrainConfig, names: tuple[str, ...], task: Task) -> None:
    for name in names:
        default = type(config).model_fields[name].default
        if getattr(config, name) != default:
            raise ValueError(
                f"{name} has no meaning for {task} labels: leave it at {default!r}, but got {getattr(config, name)!r}"
            )
