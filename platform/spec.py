"""The spec of a study: a YAML file, parsed once into frozen, checked and resolved objects.

Key by key reference: `docs/spec.md`, generated from these types by `python -m platform.reference`.
"""

from __future__ import annotations

import contextlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from data.config import DataConfig
from platform.samplers import SamplerError, check_sampler
from platform.search_space import VERBS, Domain, SearchSpace, SpaceError, flatten, nearest, nest, parse_space
from platform.spec_error import SpecError, broken_rule, faults, models_in
from platform.spec_file import read_spec_file
from trainables import METHODS

N_TRIED_CONFIGURATIONS: Final = 20
"""Points drawn at validation and built as the method's own configuration, to find rules between parameters."""

Mode = Literal["max", "min"]
SamplerName = Literal["tpe", "gp", "cmaes", "nsgaii", "qmc", "random", "grid"]
SchedulerName = Literal["asha", "median", "none"]

__all__ = ["BudgetSpec", "Constraint", "Objective", "ResourcesSpec", "SearchSpec", "Spec", "SpecError", "TrackingSpec",
           "parse_spec"]  # fmt: skip


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def _resolve(self, **values: Any) -> None:
        """Fill defaults that depend on other keys, while the object is being made."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _check_quantity(name: str) -> str:
    """A metric is `<split>/<name>`; what is known of a trial as a whole is one word."""
    if name.startswith("test/"):
        raise ValueError("the test fold is looked at once, after the search; use val/")
    if not re.fullmatch(r"(train|val)/[\w./-]+|[A-Za-z]\w*", name):
        raise ValueError("must be train/NAME, val/NAME, or a quantity of the whole trial such as onnx_bytes")
    return name


Quantity = Annotated[str, AfterValidator(_check_quantity)]


# ------------------------------------------------------------------ constraints

_CONSTRAINT: Final = re.compile(r"\s*(?P<quantity>[\w./-]+)\s*(?P<direction><=|>=)\s*(?P<bound>\S+)\s*")


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


def _constraint_text(text: str) -> str:
    return Constraint.parse(text).text


# ------------------------------------------------------------------ sections


class Objective(_Section):
    """A number to make large or small."""

    metric: Quantity = Field(description="what every trial reports, such as val/auroc")
    mode: Mode = Field(description="whether more is better")


_IDLE_OPTIONS: Final[Mapping[SchedulerName, tuple[str, ...]]] = {
    "asha": (),
    "median": ("reduction_factor", "brackets"),
    "none": ("grace_period", "reduction_factor", "brackets"),
}


def _metric_shape(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


class SearchSpec(_Section):
    """How the space is searched."""

    metric: Annotated[
        Annotated[Quantity, Tag("one")]
        | Annotated[tuple[Objective, ...], Strict(False), Field(min_length=1), Tag("several")],
        Discriminator(_metric_shape),
    ] = Field(
        "val/loss",
        description="what every trial reports and the search improves; or a list of objectives `{metric, mode}`, of "
        "which the scheduler acts on the first",
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
        for option in _IDLE_OPTIONS[self.scheduler]:
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


class BudgetSpec(_Section):
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


class ResourcesSpec(_Section):
    """What a trial runs on."""

    workers: int = Field(
        0, ge=0, le=1024, description="processes a trial; 0 trains in the trial's own, reused process, N with DDP"
    )
    cpus: float = Field(1.0, gt=0, description="CPUs a process", json_schema_extra=_unit("CPUs"))
    gpus: float = Field(0.0, ge=0, description="GPUs a process; below 1 it is shared", json_schema_extra=_unit("GPUs"))
    concurrency: Annotated[int, Field(ge=1)] | None = Field(
        None, description="trials at a time; default: as many as the machine holds"
    )
    first_report_timeout_s: float = Field(
        600.0,
        gt=0,
        description="a trial that has reported nothing for so long has failed",
        json_schema_extra=_unit("s"),
    )

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError("must be a fraction below 1, or whole")
        return gpus


class TrackingSpec(_Section):
    """Where MLflow keeps the runs."""

    uri: str = Field("sqlite:///mlflow.db", min_length=1, description="MLflow's store, or a tracking server's URI")
    experiment: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="the table that sweeps stand in; default: the store's name"
    )


# ------------------------------------------------------------------ the whole


class Spec(_Section):
    """A study: one method, its data, the space of its parameters, and how that is searched."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="names the sweep's folder, runs/NAME"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="every random choice is derived from it")
    method: str = Field(description="the training method")
    data: DataConfig = Field(description="the data set and what is done to it")
    params: dict[str, Any] = Field(
        default_factory=dict, description="the method's parameters: a value, or a verb with its range"
    )
    search: SearchSpec = Field(default_factory=SearchSpec, description="how the space is searched")
    constraints: Annotated[tuple[Annotated[str, AfterValidator(_constraint_text)], ...], Strict(False)] = Field(
        (), description="bounds on what trials report, such as `onnx_bytes <= 4e6`"
    )
    budget: BudgetSpec = Field(description="what the search may cost")
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec, description="what a trial runs on")
    tracking: TrackingSpec = Field(default_factory=TrackingSpec, description="where MLflow keeps the runs")

    @field_validator("method")
    @classmethod
    def _check_method(cls, method: str) -> str:
        if method not in METHODS:
            raise broken_rule(
                (), f"must be one of {', '.join(METHODS)}; got {method!r}", nearest(method, list(METHODS))
            )
        return method

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        """Check what several sections say together, and resolve the defaults that depend on other keys."""
        self._resolve(params=_plain_params(self.params))
        for name, value in self.space.fixed.items():
            _check_param(self, name, [value])
        for parameter in self.space.parameters:
            _check_param(self, parameter.name, _probes(parameter.domain))
        self._resolve(budget=self.budget.model_copy(update={"trials": self._n_trials()}))
        self._check_search()
        self._resolve(search=self.search.model_copy(update=self._search_defaults()))
        if self.tracking.experiment is None:
            experiment = Path(self.data.store).name or self.data.store
            self._resolve(tracking=self.tracking.model_copy(update={"experiment": experiment}))
        self._try_configurations()
        return self

    def _n_trials(self) -> int:
        if not self.space.parameters:
            return 1
        if self.search.sampler == "grid":
            with contextlib.suppress(SpaceError):  # no grid of this space: `check_sampler` says why
                return min(self.budget.trials, len(self.space.grid()))
        return self.budget.trials

    def _check_search(self) -> None:
        grace_period = self.search.resolved_grace_period(self.budget.epochs)
        if grace_period > self.budget.epochs:
            rule = f"must be at most budget.epochs = {self.budget.epochs}; got {grace_period}"
            raise broken_rule(("search", "grace_period"), rule)
        n_rungs = int(math.log(self.budget.epochs / grace_period, self.search.reduction_factor) + 1)
        if self.search.brackets > n_rungs:
            rule = f"must be at most {n_rungs}, the number of rungs; got {self.search.brackets}"
            raise broken_rule(("search", "brackets"), rule)
        quantities = tuple(constraint.quantity for constraint in self.parsed_constraints)
        try:
            check_sampler(self.search, self.space, quantities, self.budget.trials)
        except SamplerError as error:
            raise broken_rule(("search", error.key), error.rule) from None
        self._resolve(search=self.search.model_copy(update={"try_first": self._accepted_points()}))

    def _accepted_points(self) -> tuple[dict[str, Any], ...]:
        return tuple(_accept_point(self.space, index, point) for index, point in enumerate(self.search.try_first))

    def _search_defaults(self) -> dict[str, Any]:
        search, n_trials = self.search, self.budget.trials
        third, quarter = max(1, n_trials // 3), max(4, n_trials // 4)
        defaults: dict[str, Any] = {}
        if search.scheduler != "none":
            defaults["grace_period"] = search.resolved_grace_period(self.budget.epochs)
        if search.sampler in ("tpe", "gp", "cmaes"):
            defaults["n_startup_trials"] = min(1 if search.sampler == "cmaes" else 10, third)
        if search.sampler == "nsgaii":
            defaults["population_size"] = min(50, quarter)
        if search.sampler == "tpe":
            multivariate = search.multivariate
            if multivariate is None:
                multivariate = len(search.objectives) == 1 or bool(search.group)
            group = multivariate and self.space.is_conditional
            defaults |= {"multivariate": multivariate, "group": group, "constant_liar": True}
        return {name: value for name, value in defaults.items() if getattr(search, name) is None}

    def _try_configurations(self) -> None:
        """Build the method's configuration at some points, since a method may have rules between its parameters."""
        rng = np.random.default_rng(self.seed)
        for _ in range(N_TRIED_CONFIGURATIONS if self.space.parameters else 1):
            point = self.space.sample(rng)
            try:
                self.method_config(point)
            except ValidationError as error:
                config = METHODS[self.method].config
                fault = faults(error, config, nest({**self.space.fixed, **point}))[0]
                where = f"at {point}: " if point else ""
                raise broken_rule(("params", *fault.path), where + fault.rule, fault.suggestion) from None

    @cached_property
    def space(self) -> SearchSpace:
        """The search space of `params`."""
        try:
            return parse_space(self.params)
        except SpaceError as error:
            raise _at_params(error) from None

    @cached_property
    def parsed_constraints(self) -> tuple[Constraint, ...]:
        return tuple(Constraint.parse(text) for text in self.constraints)

    @property
    def constraint_texts(self) -> str:
        """The constraints in one line, for messages."""
        return ", ".join(self.constraints)

    def method_config(self, sampled: Mapping[str, Any]) -> Any:
        """Build the method's own configuration: the sampled and the fixed values, and the budget's epochs.

        Args:
            sampled: flat, with dotted keys.

        Raises:
            ValidationError: the method does not allow these values together.
        """
        flat = {"epochs": self.budget.epochs, **self.space.fixed, **sampled}
        if flat["epochs"] is None:
            flat["epochs"] = self.budget.epochs
        return METHODS[self.method].config.model_validate(nest(flat))

    def flat_params(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter of a trial, the method's defaults included, with dotted keys and JSON's types.

        `method_config` takes it back.
        """
        return _flat(self.method_config(sampled).model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Write the resolved spec; `parse_spec` reads the same spec from it."""
        values = self.model_dump(mode="json")
        for name, section in values.items():
            model = getattr(self, name)
            if isinstance(model, BaseModel):
                values[name] = {key: value for key, value in section.items() if _is_written(model, key, value)}
        return _to_yaml({key: value for key, value in values.items() if value not in ({}, [])})


def _is_written(section: BaseModel, key: str, value: Any) -> bool:
    """Leave out what is not set, and what the rest of the section makes meaningless."""
    if isinstance(section, SearchSpec):
        if key in _IDLE_OPTIONS[section.scheduler]:
            return False
        if key == "try_first" and not value:
            return False
    return value is not None or type(section).model_fields[key].default is not None


def _to_yaml(values: dict[str, Any]) -> str:
    yaml = YAML(typ="rt", pure=True)
    yaml.width = 100
    yaml.default_flow_style = None  # leaves in one line
    document = {key: _in_lines(value) if isinstance(value, dict) else value for key, value in values.items()}
    stream = io.StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


def _in_lines(section: dict[str, Any]) -> CommentedMap:
    """Have a section written with a line a key."""
    lines = CommentedMap(section)
    lines.fa.set_block_style()
    return lines


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _plain_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Spell nested parameters in one way, so that equal specs compare equal."""
    try:
        return nest(flatten(params))
    except SpaceError as error:
        raise _at_params(error) from None


def _at_params(error: SpaceError) -> Exception:
    return broken_rule(("params", *error.path), error.rule, error.suggestion)


def _accept_point(space: SearchSpace, index: int, point: Mapping[str, Any]) -> dict[str, Any]:
    """Check a point of `try_first`. What it gives for a fixed parameter must be the fixed value, and is left out."""
    try:
        flat = flatten(point)
        searched = {k: v for k, v in flat.items() if not (k in space.fixed and space.fixed[k] == v)}
        return space.accept(searched)
    except SpaceError as error:
        raise broken_rule(("search", "try_first", index, *error.path), error.rule, error.suggestion) from None


# ------------------------------------------------------------------ params against the method


def _probes(domain: Domain) -> list[Any]:
    """Return values that a method must take if it takes the domain: the ends, and one that is not round."""
    if domain.n_values is None:
        return [domain.from_unit(0.0), domain.from_unit(1 / math.e), domain.from_unit(1.0)]
    if domain.verb == "choice":
        return [domain.value_at(index) for index in range(domain.n_values)]
    return [domain.value_at(index) for index in sorted({0, domain.n_values // 2, domain.n_values - 1})]


def _check_param(spec: Spec, name: str, values: Sequence[Any]) -> None:
    path = name.split(".")
    adapter = _adapter(spec.method, path)
    for value in values:
        if name == "epochs" and isinstance(value, int | float) and value > spec.budget.epochs:
            rule = f"must be at most budget.epochs = {spec.budget.epochs}, which the rungs are made for; got {value!r}"
            raise broken_rule(("params", name), rule)
        try:
            if adapter is not None:
                _check_type(adapter.validate_python(value), value)
        except ValidationError as error:
            raise _param_fault(error, ("params", *path), value) from None


def _check_type(taken: Any, value: Any) -> None:
    """Refuse `true` and text where a number is meant; pydantic would convert them."""
    if type(taken) in (int, float) and isinstance(value, bool | str):
        raise ValidationError.from_exception_data("params", [{"type": "float_type", "input": value}])


def _param_fault(error: ValidationError, path: tuple[str, ...], value: Any) -> Exception:
    details = faults(error, _Section, {})[0]
    rule = details.rule if repr(value) in details.rule else f"{details.rule} in {value!r}"
    return broken_rule(path, rule, details.suggestion)


def _adapter(method: str, path: Sequence[str]) -> TypeAdapter[Any] | None:
    """Return what validates the parameter at `path`, or None inside a mapping of any keys.

    Raises:
        PydanticCustomError: the method has no such parameter.
    """
    model: type[BaseModel] = METHODS[method].config
    for depth, part in enumerate(path, start=1):
        field = model.model_fields.get(part)
        if field is None:
            rule = f"{method} has no parameter of that name"
            raise broken_rule(("params", *path[:depth]), rule, nearest(part, list(model.model_fields)))
        if depth == len(path):
            return _field_adapter(field)
        inner = list(models_in(field.annotation))
        if not inner:
            _check_mapping(field, path, depth)
            return None
        model = inner[0]
    raise AssertionError("a path has at least one part")


def _check_mapping(field: FieldInfo, path: Sequence[str], depth: int) -> None:
    if "dict" in str(field.annotation) or "Mapping" in str(field.annotation):
        return
    rule = f"{path[depth - 1]} is one value or one verb ({', '.join(VERBS)}); got key {path[depth]!r}"
    raise broken_rule(("params", *path[: depth + 1]), rule, nearest(path[depth], list(VERBS)))


def _field_adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotation: Any = field.annotation
    for metadata in field.metadata:
        annotation = Annotated[annotation, metadata]
    return TypeAdapter(annotation)


# ------------------------------------------------------------------ the file


def parse_spec(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec file, and resolve it.

    Args:
        overrides: `a.b=c`, applied in order; the value is YAML.

    Raises:
        SpecError: one line: `FILE:LINE: key.path: rule; got VALUE; did you mean 'x'?`.
    """
    file = read_spec_file(Path(path), overrides)
    try:
        return Spec.model_validate(file.values)
    except ValidationError as error:
        # Of several, the deepest: a union complains of every member, and a typo also leaves its key missing.
        fault = max(faults(error, Spec, file.values), key=lambda f: (f.rule == "unknown key", len(f.path)))
        raise file.error(fault.path, fault.rule, fault.suggestion) from None
