"""The sections of a spec: objectives and constraints, search, budget, resources, ensemble, repeats, folds, tracking."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    field_validator,
    model_validator,
)

from platform.specs.error import broken_rule
from platform.specs.search_space import nearest
from trainables.criterion import criterion_name

Mode = Literal["max", "min"]
SamplerName = Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random", "grid"]
SchedulerName = Literal["asha", "median", "none"]


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def _resolve(self, **values: Any) -> None:
        """Fill defaults that depend on other keys, while the object is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _check_quantity(name: str) -> str:
    """Return the name: a metric is `<split>/<name>`, what is known of a trial as a whole is one word."""
    name = criterion_name(name)
    if name.startswith("test/"):
        raise ValueError("the test fold is looked at once, after the search; use val/")
    if not re.fullmatch(r"(train|val)/[\w./-]+|[A-Za-z]\w*", name):
        raise ValueError(
            "must be train/NAME, val/NAME, min_of(NAME, NAME, ...) or a quantity of the whole trial such as onnx_bytes"
        )
    return name


Quantity = Annotated[str, AfterValidator(_check_quantity)]


# ------------------------------------------------------------------ constraints

_CONSTRAINT: Final = re.compile(r"\s*(?P<quantity>min_of\(.*\)|[\w./-]+)\s*(?P<direction><=|>=)\s*(?P<bound>\S+)\s*")


class Constraint(BaseModel):
    """A bound on a number that trials report."""

    model_config = ConfigDict(frozen=True)

    quantity: Quantity
    direction: Literal["<=", ">="]
    bound: float = Field(allow_inf_nan=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name <= number` or `name >= number`.

        Raises:
            ValueError: the text is something else.
        """
        match = _CONSTRAINT.fullmatch(text)
        try:
            bound = float(match["bound"]) if match else math.nan
        except ValueError:
            bound = math.nan
        if match is None or not math.isfinite(bound):
            raise ValueError("must be `name <= number` or `name >= number`, e.g. onnx_bytes <= 4e6")
        quantity = _check_quantity(match["quantity"])
        return cls.model_validate({"quantity": quantity, "direction": match["direction"], "bound": bound})

    @property
    def text(self) -> str:
        """The constraint as it stands in a spec; the key of its excess in the journal and in Optuna."""
        whole = self.bound.is_integer() and abs(self.bound) < 1e15
        return f"{self.quantity} {self.direction} {int(self.bound) if whole else self.bound!r}"

    def excess(self, quantities: Mapping[str, float]) -> float:
        """Return by how much the bound is exceeded; feasible where this is at most 0.

        Raises:
            ValueError: the trial did not report the quantity.
        """
        if self.quantity not in quantities:
            near = nearest(self.quantity, list(quantities))
            hint = f"; did you mean {near!r}?" if near else ""
            raise ValueError(f"constraints: {self.text}: no trial reports {self.quantity!r}{hint}")
        over = quantities[self.quantity] - self.bound
        return over if self.direction == "<=" else -over


def constraint_text(text: str) -> str:
    return Constraint.parse(text).text


# ------------------------------------------------------------------ sections


class Objective(Section):
    """A number to make large or small."""

    metric: Quantity = Field(description="what every trial reports, such as val/auroc")
    mode: Mode = Field(description="whether more is better")


IDLE_OPTIONS: Final[Mapping[SchedulerName, tuple[str, ...]]] = {
    "asha": (),
    "median": ("reduction_factor", "brackets"),
    "none": ("grace_period", "reduction_factor", "brackets"),
}


class AvoidSpec(Section):
    """Neighbourhood pruning: a value near one that failed is not proposed again. It costs no trial."""

    param: str = Field("lr", description="the parameter; searched, a number, without a condition")
    unless: Annotated[str, AfterValidator(constraint_text)] = Field(
        description="what a trial must reach at its best epoch, e.g. `val/f1 >= 0.6`; one that misses it has failed, "
        "as has one whose training diverged"
    )
    radius: float = Field(
        gt=0, description="how near is too near, inclusive: in the parameter's unit, or in decades where scale is log"
    )
    scale: Literal["linear", "log"] = Field("linear", description="how the distance of two values is measured")
    per: str | None = Field(
        "model", description="the parameter whose values keep apart what failed; null: it counts for all"
    )
    read: str | None = Field(
        None,
        description="values to avoid from the start: a file with one value a line for all, or a folder with "
        "`<value of per>/avoid.txt`, as sweeps write it",
    )

    @property
    def constraint(self) -> Constraint:
        return Constraint.parse(self.unless)

    @property
    def text(self) -> str:
        """The rule in words; the key of its excess in the journal and in Optuna."""
        unit = " decades" if self.scale == "log" else ""
        return f"{self.param} more than {self.radius:g}{unit} from one that failed"


def _metric_shape(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


class SearchSpec(Section):
    """How the space is searched."""

    metric: Annotated[
        Annotated[Quantity, Tag("one")]
        | Annotated[tuple[Objective, ...], Strict(False), Field(min_length=1), Tag("several")],
        Discriminator(_metric_shape),
    ] = Field(
        "val/loss",
        description="what every trial reports and the search improves, or the smallest of several validation metrics, "
        "`min_of(f1, recall)`; or a list of objectives `{metric, mode}`, of which the scheduler acts on the first",
    )
    mode: Mode | None = Field(
        None, description="whether more is better; required beside one metric (val/loss: min), not beside a list"
    )
    sampler: SamplerName = Field("tpe", description="proposes configurations; the table of samplers says which spaces")
    scheduler: SchedulerName = Field(
        "asha", description="stops trials: asha at rungs, median below the others' median, none never"
    )
    grace_period: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="epochs that no trial is stopped before; default: a ninth of budget.epochs, at least 1",
        json_schema_extra=_unit("epochs"),
    )
    reduction_factor: float = Field(3.0, gt=1, description="asha: of the trials at a rung, one in this many goes on")
    brackets: int = Field(1, ge=1, le=10, description="asha: ladders of rungs; each starts one rung later")
    n_startup_trials: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="tpe, gp, cmaes: random draws before the model; default: 10 (cmaes: 1), at most a third of trials",
        json_schema_extra=_unit("trials"),
    )
    population_size: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="nsgaii, cmaes: trials a generation; default: nsgaii a quarter of the trials, from 4 to 50; cmaes "
        "4 + 3 ln(number of parameters)",
        json_schema_extra=_unit("trials"),
    )
    multivariate: bool | None = Field(
        None, description="tpe: model parameters jointly; default: with one objective, or with group"
    )
    group: bool | None = Field(
        None, description="tpe: joint models of the parameters active together; default: in conditional spaces"
    )
    constant_liar: bool | None = Field(None, description="tpe: keep away from running trials; default: true")
    try_first: Annotated[tuple[dict[str, Any], ...], Strict(False)] = Field(
        (), description="points to try before the sampler's; what a point leaves out, the sampler draws"
    )
    avoid: AvoidSpec | None = Field(
        None, description="neighbourhood pruning: keep away from values that failed; default: keep away from none"
    )

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if isinstance(self.metric, tuple):
            if self.mode is not None:
                raise broken_rule(("mode",), f"stands in every objective of the list instead; got {self.mode!r}")
            names = [objective.metric for objective in self.metric]
            if len(set(names)) < len(names):
                raise broken_rule(("metric",), f"objectives must differ; got {', '.join(names)}")
        elif self.mode is None:
            if self.metric != "val/loss":
                raise broken_rule((), f"mode is required beside metric: {self.metric}; give max or min")
            self._resolve(mode="min")
        return self

    @model_validator(mode="after")
    def _check_scheduler(self) -> Self:
        for option in IDLE_OPTIONS[self.scheduler]:
            if option in self.model_fields_set:
                takers = "asha and median" if option == "grace_period" else "asha"
                raise broken_rule(
                    (option,), f"has no meaning for scheduler {self.scheduler}, only for {takers}; leave it out"
                )
        first = self.objectives[0].metric
        if self.scheduler != "none" and "/" not in first:
            rule = f"the scheduler needs what changes with the epochs (val/...) as first objective; got {first!r}"
            raise broken_rule(("metric",), rule)
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives; the scheduler acts on the first."""
        if isinstance(self.metric, tuple):
            return self.metric
        assert self.mode is not None
        return (Objective(metric=self.metric, mode=self.mode),)

    def resolved_grace_period(self, max_epochs: int) -> int:
        """Return the grace period in epochs: a ninth of the longest trial unless given."""
        # Shorter, and a model-based sampler locks onto fast starters.
        return self.grace_period if self.grace_period is not None else max(1, max_epochs // 9)


class BudgetSpec(Section):
    """What the search may cost. The first bound that is reached ends it."""

    trials: int = Field(
        100, ge=1, le=1_000_000, description="trials; 1 without a verb in params, and the whole grid if that is smaller"
    )
    epochs: int = Field(ge=1, le=1_000_000, description="most epochs of one trial", json_schema_extra=_unit("epochs"))
    total_epochs: Annotated[int, Field(ge=1)] | None = Field(
        None, description="epochs of all trials together; default: no bound", json_schema_extra=_unit("epochs")
    )
    wall_time_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="time from the start; default: no bound", json_schema_extra=_unit("s")
    )
    disk_bytes: Annotated[float, Field(gt=0)] | None = Field(
        None, description="size of the sweep's folder; default: no bound", json_schema_extra=_unit("bytes")
    )

    @property
    def most_epochs(self) -> int:
        """The most epochs that all trials together can cost."""
        product = self.trials * self.epochs
        return min(product, self.total_epochs or product)


class ResourcesSpec(Section):
    """What a trial runs on."""

    workers: int = Field(
        0, ge=0, le=1024, description="processes a trial; 0 trains in the trial's own, reused process, N with DDP"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs a process", json_schema_extra=_unit("CPUs"))
    gpus: float = Field(0.0, ge=0, description="GPUs a process; below 1 it is shared", json_schema_extra=_unit("GPUs"))
    concurrency: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="trials at a time; default: as many as machine or cluster hold at the moment. On a cluster that "
        "is joined (`--address`), trials beyond what fits wait, and are the demand that its autoscaler sees",
    )
    first_report_timeout_s: float = Field(
        600.0,
        gt=0,
        description="a trial that has reported nothing for so long has failed",
        json_schema_extra=_unit("s"),
    )
    report_timeout_s: float = Field(
        3600.0,
        gt=0,
        description="a trial that has reported nothing for so long since its last report has failed",
        json_schema_extra=_unit("s"),
    )
    retries: int = Field(
        2,
        ge=0,
        le=100,
        description="how often a trial whose process or node died goes on from its last checkpoint; what a method "
        "itself raises is not tried again",
    )

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("must be a fraction below 1, or whole")
        return gpus


class EnsembleSpec(Section):
    """An ensemble of the sweep's best trials: chosen greedily on validation, tested once, left as one ONNX file."""

    top: int = Field(  # at most `platform.sweeps.checkpoints.KEPT_TRIALS`
        10,
        ge=2,
        le=10,
        description="best trials to choose among; fewer where fewer have kept their checkpoint",
        json_schema_extra=_unit("trials"),
    )


class RepeatsSpec(Section):
    """After the search, the best configuration again with other seeds: its spread. Each repeat is tested once."""

    seeds: int = Field(
        ge=2,
        le=100,
        description="how many seeds; the chosen trial's own is not among them, since it was chosen by its value",
    )


class FoldsSpec(Section):
    """Cross-validation: a trial trains a fresh model a fold, and reports the mean after every epoch."""

    k: int = Field(
        ge=2,
        le=100,
        description="folds that the records of the training and validation folds are dealt to, by patient and "
        "stratified by the label set (`data.seed`); the test folds take no part",
    )


class TrackingSpec(Section):
    """Where MLflow keeps the runs."""

    uri: str = Field("sqlite:///mlflow.db", min_length=1, description="MLflow's store, or a tracking server's URI")
    experiment: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the table that sweeps stand in; default: the store's name"
    )

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        if urlsplit(uri).password is not None:  # the spec is written into journal, report and MLflow; not echoed here
            raise broken_rule(
                (), "holds a password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
            )
        return uri
