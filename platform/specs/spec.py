"""The spec of a study: a YAML file, parsed once into frozen, checked and resolved objects.

Key by key reference: `docs/spec.md`, generated from these types by `python -m platform.reference`.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from data.config import DataConfig
from data.dataset import LabelSet, Signal, Task
from platform.search.avoidance import avoid_fault
from platform.search.samplers import STATIC_QUANTITIES, SamplerError, check_sampler
from platform.specs.error import broken_rule, faults
from platform.specs.file import read_spec_file
from platform.specs.parameters import check_parameter, probes
from platform.specs.quantities import MEASURED_QUANTITIES
from platform.specs.resolved import flat_values, resolved_yaml
from platform.specs.search_space import SearchSpace, SpaceError, flatten, nearest, parse_space
from platform.specs.sections import (
    IDLE_OPTIONS,
    BudgetSpec,
    Constraint,
    EnsembleSpec,
    FoldsSpec,
    RepeatsSpec,
    ResourcesSpec,
    SearchSpec,
    Section,
    TrackingSpec,
    constraint_text,
)
from platform.specs.storage import check_storage, in_storage, tracked_in_storage
from platform.specs.targets import FIRST_OBJECTIVE, Target, parse_targets
from trainables.criterion import parts_of
from trainables.cross_validation import training_method
from trainables.method import Method, nest
from trainables.methods import METHODS
from trainables.metrics import macro_names
from trainables.onnx_export import why_not_exportable

N_TRIED_CONFIGURATIONS: Final = 20
"""Points drawn at validation and built as the method's own configuration, to find rules between parameters."""


class Spec(Section):
    """A study: one method, its data, the space of its parameters, and how that is searched."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="names the sweep's folder, runs/NAME"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="every random choice is derived from it")
    method: str = Field(description="the training method")
    storage: Annotated[str, AfterValidator(check_storage)] | None = Field(
        None,
        description="root of a cluster's files, a folder that every node has or a bucket (`s3://bucket/ecg`): "
        "`data.store` and MLflow's file count from it, and the sweeps' folders are made in `runs/` below it; default: "
        "this machine's working directory",
    )
    data: DataConfig = Field(description="the data set and what is done to it")
    params: dict[str, Any] = Field(
        default_factory=dict, description="the method's parameters: a value, or a verb with its range"
    )
    search: SearchSpec = Field(default_factory=SearchSpec, description="how the space is searched")
    constraints: Annotated[tuple[Annotated[str, AfterValidator(constraint_text)], ...], Strict(False)] = Field(
        (), description="bounds on what trials report, such as `onnx_bytes <= 4e6`"
    )
    stop_when: dict[str, float] = Field(
        default_factory=dict,
        description="targets, name: bound, that end the search once one trial meets all; `min_metric` is the first "
        "objective, another bare name a validation metric, `onnx_kib` and the like are of the trial; sizes, times, "
        "losses and errors are to stay below",
    )
    targets: dict[str, float] = Field(
        default_factory=dict,
        description="targets that choose the model, as in stop_when, and latency_ms too: the smallest ONNX file that "
        "meets all, or else the nearest; default: those of stop_when",
    )
    budget: BudgetSpec = Field(description="what the search may cost")
    resources: ResourcesSpec = Field(default_factory=ResourcesSpec, description="what a trial runs on")
    ensemble: EnsembleSpec | None = Field(
        None,
        description="greedy ensemble selection after the search, by the first objective, which must be a validation "
        "metric other than val/loss; its test is a look at the test fold of its own",
    )
    repeats: RepeatsSpec | None = Field(
        None,
        description="trains the best configuration again with other seeds, outside the search and its budget; every "
        "repeat is tested, a look at the test fold each",
    )
    folds: FoldsSpec | None = Field(
        None,
        description="makes every trial a cross-validation: k models, each with another part of the training and "
        "validation folds for validation. The best trial's model is the mean of its k models. An epoch of the budget "
        "is one of all k. `data.k_fold` is another thing: it says which folds are for training, validation and test",
    )
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
        self._resolve(params=_plain_params(self.params), data=in_storage(self.data, self.storage))
        self._resolve(tracking=tracked_in_storage(self.tracking, self.storage))
        self._check_params()
        self._resolve(budget=self.budget.model_copy(update={"trials": self._n_trials()}))
        self._check_search()
        self._check_ensemble()
        self._check_folds()
        self._check_targets()
        self._resolve(search=self.search.model_copy(update=self._search_defaults()))
        if self.tracking.experiment is None:
            experiment = Path(self.data.store).name or self.data.store
            self._resolve(tracking=self.tracking.model_copy(update={"experiment": experiment}))
        self._try_configurations()
        self._check_avoid()
        return self

    def _check_params(self) -> None:
        tried = {name: [value] for name, value in self.space.fixed.items()}
        tried |= {parameter.name: probes(parameter.domain) for parameter in self.space.parameters}
        for name, values in tried.items():
            check_parameter(self.method, name, values)
        most = self.budget.epochs
        for value in tried.get("epochs", ()):
            if isinstance(value, int | float) and value > most:
                rule = f"must be at most budget.epochs = {most}, which the rungs are made for; got {value!r}"
                raise broken_rule(("params", "epochs"), rule)

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
        constrained = tuple(constraint.quantity for constraint in self.parsed_constraints)
        quantities = tuple(quantity for quantity in constrained if quantity not in MEASURED_QUANTITIES)
        try:
            check_sampler(self.search, self.space, quantities, self.budget.trials)
        except SamplerError as error:
            raise broken_rule(("search", error.key), error.rule) from None
        self._resolve(search=self.search.model_copy(update={"try_first": self._accepted_points()}))

    def _check_ensemble(self) -> None:
        if self.ensemble is None:
            return
        known = sorted({f"val/{name}" for task in get_args(Task) for name in macro_names(task)})
        first = self.search.objectives[0].metric
        if first not in known:
            rule = f"chooses members by search.metric, which must be one of {', '.join(known)}; got {first!r}"
            raise broken_rule(("ensemble",), rule, nearest(first, known))
        if self.budget.trials < 2:
            raise broken_rule(("ensemble",), f"needs 2 trials at least; got {self.budget.trials}")

    def _check_targets(self) -> None:
        for key in ("stop_when", "targets"):
            for name, bound in getattr(self, key).items():
                if not math.isfinite(bound):
                    raise broken_rule((key, name), f"must be a finite number; got {bound!r}")
                if name == FIRST_OBJECTIVE and self.search.objectives[0].mode == "min":
                    rule = f"is at least a bound, but {self.search.objectives[0].metric} is the better the smaller"
                    raise broken_rule((key, name), f"{rule}; name that metric instead")
        for target in self.stopping_targets:
            if target.quantity in MEASURED_QUANTITIES:
                rule = "is measured after the search; name it in targets or constraints"
                raise broken_rule(("stop_when", target.name), rule)

    def _check_avoid(self) -> None:
        if self.search.avoid is None or not self.space.parameters:
            return
        known = list(self.flat_params(self.space.sample(np.random.default_rng(self.seed))))
        fault = avoid_fault(self.search.avoid, self.space, known)
        if fault is not None:
            raise broken_rule(("search", "avoid", fault[0]), fault[1])

    def _check_folds(self) -> None:
        if self.folds is None:
            return
        if self.resources.workers:
            rule = f"trains in the trial's own process: needs resources.workers: 0; got {self.resources.workers}"
            raise broken_rule(("folds",), rule)
        if self.ensemble is not None:
            rule = "trains on the validation folds, by which an ensemble is chosen; leave out folds or ensemble"
            raise broken_rule(("folds",), rule)

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
    def training(self) -> Method:
        """The method as trials run it: under `folds`, k models of it."""
        return training_method(self.method, None if self.folds is None else self.folds.k)

    @property
    def objectives(self) -> list[tuple[str, Literal["max", "min"]]]:
        """What is optimised, the first one first: (metric, mode)."""
        return [(objective.metric, objective.mode) for objective in self.search.objectives]

    @property
    def constraint_texts(self) -> str:
        """What proposals must keep in one line, for messages."""
        avoid = self.search.avoid
        return ", ".join([*self.constraints, *([avoid.text] if avoid is not None else [])])

    @property
    def stopping_targets(self) -> tuple[Target, ...]:
        """The targets that end the search."""
        return parse_targets(self.stop_when, self.search.objectives[0].metric)

    @property
    def choosing_targets(self) -> tuple[Target, ...]:
        """The targets that choose the model."""
        return parse_targets(self.targets or self.stop_when, self.search.objectives[0].metric)

    def check_quantities(self, task: Task) -> None:
        """Refuse a task that the method does not learn, and objectives and constraints on what no trial reports.

        Raises:
            ValueError: there is one.
        """
        METHODS[self.method].check_task(task)
        if self.folds is not None and task == "unlabelled":
            raise ValueError("folds: the mean of k encoders that know no labels is nothing to use; leave folds out")
        reported = METHODS[self.method].reports(task)
        trained = sorted({*reported, *STATIC_QUANTITIES, "best_epoch"})
        named = {"search.metric": [objective.metric for objective in self.search.objectives]}
        if self.search.avoid is not None:
            named["search.avoid.unless"] = [self.search.avoid.constraint.quantity]
        late = {f"constraints: {constraint.text}": [constraint.quantity] for constraint in self.parsed_constraints}
        late |= {f"target {t.text}": [t.quantity] for t in (*self.stopping_targets, *self.choosing_targets)}
        for place, quantities in {**named, **late}.items():
            known = trained if place in named else [*trained, *MEASURED_QUANTITIES]
            for quantity in itertools.chain.from_iterable(parts_of(name) or (name,) for name in quantities):
                if quantity not in known:
                    near = nearest(quantity, known)
                    raise ValueError(
                        f"{place}: {self.method} reports no {quantity!r} where the labels are {task}; "
                        + (f"did you mean {near!r}? " if near else "")
                        + f"It reports {', '.join(known)}"
                    )

    @property
    def criteria(self) -> tuple[str, ...]:
        """The `min_of` criteria that the spec names anywhere: what a trial has to work out beside its metrics."""
        named = [objective.metric for objective in self.search.objectives]
        named += [constraint.quantity for constraint in self.parsed_constraints]
        named += [target.quantity for target in (*self.stopping_targets, *self.choosing_targets)]
        named += [self.search.avoid.constraint.quantity] if self.search.avoid is not None else []
        return tuple(dict.fromkeys(quantity for quantity in named if parts_of(quantity)))

    def check_method(self, signal: Signal, label_set: LabelSet) -> None:
        """Refuse configurations that the method knows to be of no use on these records, at some points of the space.

        Raises:
            ValueError: there is one.
        """
        rng = np.random.default_rng(self.seed)
        n_points = N_TRIED_CONFIGURATIONS if self.space.parameters else 1
        configs = [self.method_config(self.space.sample(rng)) for _ in range(n_points)]
        METHODS[self.method].check(configs, signal, label_set)
        if "onnx_bytes" in self._bounded:
            for config in configs:
                reason = why_not_exportable(METHODS[self.method], config, signal, label_set)
                if reason is not None:
                    raise ValueError(
                        f"onnx_bytes: some models can't go to ONNX, since {reason}; ask for no bound on it"
                    )

    @property
    def _bounded(self) -> set[str]:
        """The quantities that the search is after, or must keep within a bound."""
        targets = (*self.stopping_targets, *self.choosing_targets)
        bounded = {each.quantity for each in self.parsed_constraints} | {each.quantity for each in targets}
        return bounded | {objective.metric for objective in self.search.objectives}

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
        return METHODS[self.method].parse_config(flat)

    def flat_params(self, sampled: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter of a trial, the method's defaults included, with dotted keys and JSON's types.

        `method_config` takes it back.
        """
        return flat_values(self.method_config(sampled).model_dump(mode="json"))

    def flat(self) -> dict[str, Any]:
        """Return the resolved spec with dotted keys and JSON's types."""
        return flat_values(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Write the resolved spec; `parse_spec` reads the same spec from it."""
        values = self.model_dump(mode="json")
        for name, section in values.items():
            model = getattr(self, name)
            if isinstance(model, BaseModel):
                values[name] = {key: value for key, value in section.items() if _is_written(model, key, value)}
        return resolved_yaml({key: value for key, value in values.items() if value not in ({}, [], None)})


def _is_written(section: BaseModel, key: str, value: Any) -> bool:
    """Leave out what is not set, and what the rest of the section makes meaningless."""
    if isinstance(section, SearchSpec):
        if key in IDLE_OPTIONS[section.scheduler]:
            return False
        if key == "try_first" and not value:
            return False
    return value is not None or type(section).model_fields[key].default is not None


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
