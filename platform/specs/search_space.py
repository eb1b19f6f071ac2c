"""The search space: parameters with a domain each, conditions between them, and the values that are fixed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from platform.specs.domains import VERBS, Choice, Domain, parse_domain, same_value

MAX_GRID_POINTS = 100_000
_MAX_PARAMETERS = 1_000

Path = tuple[str, ...]


class SpaceError(ValueError):
    """A rule of the search space is broken; `path` says where, from the top of `params`."""

    def __init__(self, path: Path, rule: str, suggestion: str | None = None) -> None:
        super().__init__(f"{'.'.join(path)}: {rule}" if path else rule)
        self.path, self.rule, self.suggestion = path, rule, suggestion


@dataclass(frozen=True)
class Condition:
    """Holds where the parameter `parent` is active and has one of `values`."""

    parent: str
    values: tuple[Any, ...]

    def holds(self, point: Mapping[str, Any]) -> bool:
        return self.parent in point and any(same_value(point[self.parent], value) for value in self.values)


@dataclass(frozen=True)
class Parameter:
    """A parameter that the sampler chooses; it is active where every condition holds."""

    name: str
    domain: Domain
    when: tuple[Condition, ...] = ()

    def is_active(self, point: Mapping[str, Any]) -> bool:
        return all(condition.holds(point) for condition in self.when)

    def suggest(self, trial: optuna.trial.Trial) -> Any:
        """Ask Optuna for a value. Numbers and categories go by the same distribution as `domain.distribution()`."""
        distribution = self.domain.distribution()
        stored: Any
        if isinstance(distribution, FloatDistribution):
            stored = trial.suggest_float(
                self.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        elif isinstance(distribution, IntDistribution):
            stored = trial.suggest_int(
                self.name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        else:
            assert isinstance(distribution, CategoricalDistribution)
            stored = trial.suggest_categorical(self.name, distribution.choices)
        return self.domain.decode(stored)


@dataclass(frozen=True)
class SearchSpace:
    """The parameters to search, parents before children, and the values that are fixed. Keys are dotted.

    A condition on a fixed value is settled here: it is dropped where it holds, and its parameter where it does not.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def is_conditional(self) -> bool:
        return any(parameter.when for parameter in self.parameters)

    @property
    def has_categorical(self) -> bool:
        return any(isinstance(p.domain, Choice) and p.domain.n_values > 1 for p in self.parameters)

    def parameter(self, name: str) -> Parameter:
        return next(parameter for parameter in self.parameters if parameter.name == name)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return Optuna's distribution of every parameter, active or not."""
        return {parameter.name: parameter.domain.distribution() for parameter in self.parameters}

    def suggest(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """Ask an Optuna trial for the values of the active parameters, parents first."""
        return self._fill(lambda parameter: parameter.suggest(trial))

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw one point at random."""
        return self._fill(lambda parameter: parameter.domain.from_unit(rng.random()))

    def _fill(self, choose: Callable[[Parameter], Any]) -> dict[str, Any]:
        point: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.is_active(point):
                point[parameter.name] = choose(parameter)
        return point

    def encode(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what Optuna stores for a point; the form that `study.enqueue_trial` takes."""
        return {name: self.parameter(name).domain.encode(value) for name, value in point.items()}

    def decode(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point for what Optuna stores, as in `trial.params`."""
        return {name: self.parameter(name).domain.decode(value) for name, value in stored.items()}

    def contains(self, point: Mapping[str, Any]) -> bool:
        """Tell whether a point gives every active parameter a value of its domain, and nothing else."""
        try:
            accepted = self.accept(point)
        except SpaceError:
            return False
        return all((parameter.name in accepted) == parameter.is_active(accepted) for parameter in self.parameters)

    def accept(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return a point, whole or partial, in the types of the domains.

        Raises:
            SpaceError: a name is not searched, a value not in its domain, or a parameter given that another one's
                value makes inactive.
        """
        for name in point:
            if name not in self.names:
                rule = (
                    f"is fixed at {self.fixed[name]!r}; leave it out"
                    if name in self.fixed
                    else "is not a searched parameter"
                )
                raise SpaceError((name,), rule, nearest(name, self.names))
        accepted = {p.name: _accept(p, point[p.name]) for p in self.parameters if p.name in point}
        for parameter in self.parameters:
            if parameter.name in accepted:
                _check_active(parameter, accepted)
        return accepted

    def grid(self) -> list[dict[str, Any]]:
        """Return the distinct valid combinations, the first parameter varying slowest.

        Raises:
            SpaceError: a domain is continuous, or there are more than `MAX_GRID_POINTS` combinations.
        """
        for parameter in self.parameters:
            if parameter.domain.n_values is None:
                rule = f"grid needs a list of values, but got {parameter.domain.verb}; use choice or quniform"
                raise SpaceError((parameter.name,), rule)
        points: list[dict[str, Any]] = [{}]
        for parameter in self.parameters:
            points = [extended for point in points for extended in _extensions(parameter, point)]
            if len(points) > MAX_GRID_POINTS:
                raise SpaceError((), f"grid has more than {MAX_GRID_POINTS} combinations; use fewer values")
        return points


def _extensions(parameter: Parameter, point: dict[str, Any]) -> list[dict[str, Any]]:
    if not parameter.is_active(point):
        return [point]
    n_values = parameter.domain.n_values
    assert n_values is not None
    # One more than the limit is enough for the caller to refuse the grid.
    indices = range(min(n_values, MAX_GRID_POINTS + 1))
    return [{**point, parameter.name: parameter.domain.value_at(index)} for index in indices]


def _accept(parameter: Parameter, value: Any) -> Any:
    try:
        return parameter.domain.accept(value)
    except ValueError as error:
        raise SpaceError((parameter.name,), str(error)) from None


def _check_active(parameter: Parameter, point: Mapping[str, Any]) -> None:
    """A partial point may leave a parent open, but must not contradict it."""
    for condition in parameter.when:
        if condition.parent in point and not condition.holds(point):
            wanted = " or ".join(repr(value) for value in condition.values)
            rule = f"is active only where {condition.parent} is {wanted}, but got {point[condition.parent]!r}"
            raise SpaceError((parameter.name,), rule)


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that `name` is most likely a slip of, or None."""
    matches = get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None


def flatten(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings as dotted keys; a mapping with a verb, or with nothing, is a value.

    Raises:
        SpaceError: two spellings of one key, or a key given both as a value and as a section.
    """
    flat: dict[str, Any] = {}
    for path, value in _leaves((), params):
        name = ".".join(path)
        rivals = [k for k in flat if k == name or k.startswith(f"{name}.") or name.startswith(f"{k}.")]
        if rivals:
            raise SpaceError(path, f"is given twice, as {rivals[0]} too; keep one")
        flat[name] = value
    return flat


def _leaves(path: Path, node: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    for key, value in node.items():
        if not isinstance(key, str):
            raise SpaceError(path, f"a parameter's name must be text, but got {key!r}")
        here = (*path, key)
        if isinstance(value, Mapping) and value and not _is_verb(value):
            yield from _leaves(here, value)
        else:
            yield here, value


def _is_verb(node: Any) -> bool:
    return isinstance(node, Mapping) and ("when" in node or any(verb in node for verb in VERBS))


def parse_space(params: Mapping[str, Any]) -> SearchSpace:
    """Build the search space from the `params` of a spec: values, verbs, and nested mappings of them.

    Raises:
        SpaceError: a verb's arguments, a condition, or a name break a rule.
    """
    flat = flatten(params)
    if len(flat) > _MAX_PARAMETERS:
        raise SpaceError((), f"at most {_MAX_PARAMETERS} parameters are taken, but got {len(flat)}")
    fixed = {name: value for name, value in flat.items() if not _is_verb(value)}
    searched = {name: _parse_parameter(name, value) for name, value in flat.items() if _is_verb(value)}
    for parameter in searched.values():
        _check_conditions(parameter, searched, fixed)
    return SearchSpace(tuple(_settle(_sorted(searched), fixed)), fixed)


def _parse_parameter(name: str, node: Mapping[str, Any]) -> Parameter:
    path = tuple(name.split("."))
    verbs = [key for key in node if key in VERBS]
    others = [key for key in node if key not in VERBS and key != "when"]
    if len(verbs) != 1:
        got = " and ".join(map(str, verbs)) or ", ".join(map(str, others)) or "only `when`"
        suggestion = nearest(str(others[0]), list(VERBS)) if others else None
        raise SpaceError(path, f"needs one verb ({', '.join(VERBS)}); got {got}", suggestion)
    if others:
        raise SpaceError(
            (*path, str(others[0])),
            f"unknown key beside `{verbs[0]}`; only `when` may stand there",
            nearest(str(others[0]), ["when"]),
        )
    try:
        return Parameter(name, parse_domain(verbs[0], node[verbs[0]]), _parse_conditions(node.get("when", {})))
    except (ValueError, TypeError) as error:
        raise SpaceError(path, str(error)) from None


def _parse_conditions(node: Any) -> tuple[Condition, ...]:
    if not isinstance(node, Mapping):
        raise ValueError(f"`when` takes {{parameter: value}} or {{parameter: [value, ...]}}, but got {node!r}")
    return tuple(
        Condition(parent, tuple(values) if isinstance(values, list) else (values,)) for parent, values in node.items()
    )


def _check_conditions(parameter: Parameter, searched: Mapping[str, Parameter], fixed: Mapping[str, Any]) -> None:
    for condition in parameter.when:
        path = (*parameter.name.split("."), "when", str(condition.parent))
        if not condition.values:
            raise SpaceError(path, "needs at least one value, but got []")
        if condition.parent in fixed:
            continue
        if condition.parent not in searched:
            known = [name for name in (*searched, *fixed) if name != parameter.name]
            rule = f"no parameter of that name stands in `params`; got {condition.parent!r}"
            raise SpaceError(path, rule, nearest(str(condition.parent), known))
        _check_values(path, condition, searched[condition.parent].domain)


def _check_values(path: Path, condition: Condition, domain: Domain) -> None:
    if domain.n_values is None:
        raise SpaceError(path, f"a condition needs a parent with a list of values, but got {domain.verb}; use choice")
    for value in condition.values:
        try:
            domain.accept(value)
        except ValueError as error:
            raise SpaceError(path, f"can never hold: {condition.parent} {error}") from None


def _sorted(searched: Mapping[str, Parameter]) -> list[Parameter]:
    """Return parents before children, otherwise in the order of the file."""
    graph = {p.name: [c.parent for c in p.when if c.parent in searched] for p in searched.values()}
    try:
        return [searched[name] for name in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise SpaceError((*error.args[1][0].split("."), "when"), f"conditions form a cycle: {cycle}") from None


def _settle(parameters: Sequence[Parameter], fixed: Mapping[str, Any]) -> Iterator[Parameter]:
    """Drop the conditions that fixed values decide, and the parameters that can never be active."""
    reachable: set[str] = set()
    for parameter in parameters:
        if all(c.holds(fixed) if c.parent in fixed else c.parent in reachable for c in parameter.when):
            reachable.add(parameter.name)
            open_conditions = tuple(c for c in parameter.when if c.parent not in fixed)
            yield Parameter(parameter.name, parameter.domain, open_conditions)
