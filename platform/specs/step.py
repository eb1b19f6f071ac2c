"""The spec of a data step: one stage of a chain that trains nothing."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from data.config import DataConfig
from platform.specs.error import broken_rule, faults
from platform.specs.resolved import flat_values, resolved_yaml
from platform.specs.search_space import SearchSpace, SpaceError, nearest, parse_space
from platform.specs.sections import Objective, Section, TrackingSpec
from platform.specs.storage import check_storage, in_storage, tracked_in_storage
from trainables.data_step import DataStep
from trainables.data_steps import DATA_STEPS
from trainables.method import nest


class StepSpec(Section):
    """A data step with its parameters; with verbs among them, it runs at every point of the grid that they span."""

    name: str = Field(description="the stage's name")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="every random choice is derived from it")
    step: str = Field(description="the data step")
    storage: Annotated[str, AfterValidator(check_storage)] | None = Field(
        None, description="root of a cluster's files, as of a sweep"
    )
    data: DataConfig = Field(description="the data set and what is done to it")
    params: dict[str, Any] = Field(
        default_factory=dict, description="the step's parameters: a value, or a verb with finitely many values"
    )
    select: Objective | None = Field(
        None, description="by which of the step's measures the best point is chosen; needed where params have a verb"
    )
    tracking: TrackingSpec = Field(default_factory=TrackingSpec, description="where MLflow keeps the runs")

    @field_validator("step")
    @classmethod
    def _check_step(cls, step: str) -> str:
        if step not in DATA_STEPS:
            rule = f"must be one of {', '.join(DATA_STEPS) or 'none: there is no data step yet'}; got {step!r}"
            raise broken_rule((), rule, nearest(step, list(DATA_STEPS)))
        return step

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        self._resolve(data=in_storage(self.data, self.storage))
        self._resolve(tracking=tracked_in_storage(self.tracking, self.storage))
        for point in self.points:
            self._check_point(point)
        self._check_select()
        return self

    def _check_point(self, point: dict[str, Any]) -> None:
        try:
            self.step_config(point)
        except ValidationError as error:
            fault = faults(error, self.data_step.config, nest({**self.space.fixed, **point}))[0]
            raise broken_rule(("params", *fault.path), fault.rule, fault.suggestion) from None

    def _check_select(self) -> None:
        known = sorted(self.data_step.measures)
        if self.select is None:
            if self.space.parameters:
                rule = f"is needed where params have a verb; give a metric among {', '.join(known)} and its mode"
                raise broken_rule(("select",), rule)
        elif self.select.metric not in known:
            rule = f"must be one of {', '.join(known) or 'none: the step measures nothing'}; got {self.select.metric!r}"
            raise broken_rule(("select", "metric"), rule, nearest(self.select.metric, known))

    @property
    def data_step(self) -> DataStep:
        return DATA_STEPS[self.step]

    @cached_property
    def space(self) -> SearchSpace:
        """The search space of `params`."""
        try:
            return parse_space(self.params)
        except SpaceError as error:
            raise broken_rule(("params", *error.path), error.rule, error.suggestion) from None

    @cached_property
    def points(self) -> list[dict[str, Any]]:
        """The points to run the step at; one without values where no parameter has a verb."""
        if not self.space.parameters:
            return [{}]
        try:
            return list(self.space.grid())
        except SpaceError as error:
            rule = f"{error.rule}; a data step tries every point"
            raise broken_rule(("params", *error.path), rule, error.suggestion) from None

    def step_config(self, point: dict[str, Any]) -> Any:
        """Build the step's own configuration at a point; dotted keys.

        Raises:
            ValidationError: the step does not allow these values.
        """
        return self.data_step.config.model_validate(nest({**self.space.fixed, **point}))

    def point_seed(self, number: int) -> int:
        """Return the seed of a point's run."""
        return int(np.random.SeedSequence(entropy=self.seed, spawn_key=(number, 1)).generate_state(1)[0] >> 1)

    def flat(self) -> dict[str, Any]:
        """Return the resolved spec with dotted keys and JSON's types."""
        return flat_values(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """Write the resolved spec."""
        return resolved_yaml(self.model_dump(mode="json", exclude_none=True))
