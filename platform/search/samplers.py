"""The samplers: which spaces each one really searches, and how it is built anew for every proposal.

Optuna falls back to random draws without a word where a sampler cannot do what is asked of it. The table
says what each can do, read from the source of Optuna 5.0; the rest is refused before a sweep starts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from scipy.stats import qmc

from platform.specs.search_space import SearchSpace, SpaceError

if TYPE_CHECKING:
    from platform.specs.sections import SearchSpec
    from platform.specs.spec import Spec

STATIC_QUANTITIES: Final = ("parameters", "trainable_parameters", "onnx_bytes")
"""Known before training: a proposal that breaks a bound on them never becomes a trial."""

MIN_CMAES_POPULATION: Final = 4
_MAX_SOBOL_DIMENSIONS: Final = qmc.Sobol.MAXDIM


@dataclass(frozen=True)
class SamplerFacts:
    """One row of `SAMPLERS`.

    Attributes:
        conditional: searches parameters that are active only for some values of others.
        categorical: searches `choice`.
        continuous: searches domains without a list of values.
        objectives: searches several objectives.
        stopped: learns from trials that the scheduler stopped (or has nothing to learn).
        constraints: learns from `constraints`; "filtered" samplers learn from nothing, "reported" ones do not learn
            from infeasible proposals, and so take bounds on what only training shows.
        seed_each_proposal: built with a fresh seed for every proposal; otherwise with the spec's own.
        options: the keys of `search` that mean something to it.
        note: where its state lives, or what else a user should know.
    """

    conditional: bool
    categorical: bool
    continuous: bool
    objectives: bool
    stopped: bool
    constraints: Literal["learned", "reported", "filtered", "refused"]
    seed_each_proposal: bool
    options: frozenset[str]
    note: str


SAMPLERS: Final[Mapping[str, SamplerFacts]] = {
    "tpe": SamplerFacts(
        conditional=True,
        categorical=True,
        continuous=True,
        objectives=True,
        stopped=True,
        constraints="learned",
        seed_each_proposal=True,
        options=frozenset({"n_startup_trials", "multivariate", "group", "constant_liar"}),
        note="Tree-structured Parzen estimator; its state is the study's trials",
    ),
    "gp": SamplerFacts(
        conditional=False,
        categorical=True,
        continuous=True,
        objectives=False,
        stopped=False,
        constraints="reported",
        seed_each_proposal=True,
        options=frozenset({"n_startup_trials"}),
        note="Gaussian process; refitted from the study's trials for every proposal",
    ),
    "cmaes": SamplerFacts(
        conditional=False,
        categorical=False,
        continuous=True,
        objectives=False,
        stopped=True,
        constraints="refused",
        seed_each_proposal=True,
        options=frozenset({"n_startup_trials", "population_size"}),
        note="covariance matrix adaptation, once a trial has completed; its state is in the trials' system attributes",
    ),
    "nsgaii": SamplerFacts(
        conditional=False,
        categorical=True,
        continuous=True,
        objectives=True,
        stopped=False,
        constraints="learned",
        seed_each_proposal=True,
        options=frozenset({"population_size"}),
        note="genetic algorithm; its generations are in the trials' system attributes",
    ),
    "qmc": SamplerFacts(
        conditional=False,
        categorical=True,
        continuous=True,
        objectives=True,
        stopped=True,
        constraints="filtered",
        seed_each_proposal=False,
        options=frozenset(),
        note="scrambled Sobol sequence; proposal n takes its point n",
    ),
    "random": SamplerFacts(
        conditional=True,
        categorical=True,
        continuous=True,
        objectives=True,
        stopped=True,
        constraints="filtered",
        seed_each_proposal=True,
        options=frozenset(),
        note="independent draws",
    ),
    "grid": SamplerFacts(
        conditional=True,
        categorical=True,
        continuous=False,
        objectives=True,
        stopped=True,
        constraints="filtered",
        seed_each_proposal=True,
        options=frozenset(),
        note="every valid combination once, the first parameter varying slowest",
    ),
}


class SamplerError(ValueError):
    """The sampler cannot do what the spec asks; `key` is the key of `search` at fault."""

    def __init__(self, rule: str, key: str = "sampler") -> None:
        super().__init__(rule)
        self.rule, self.key = rule, key


# ------------------------------------------------------------------ what a spec needs of its sampler


@dataclass(frozen=True)
class _Need:
    what: str
    test: Callable[[SamplerFacts], bool]
    remedy: str = ""


def _needs(search: SearchSpec, space: SearchSpace, quantities: tuple[str, ...]) -> list[_Need]:
    """Return what the space, the objectives, the scheduler and the constraints ask of a sampler."""
    continuous = [p.name for p in space.parameters if p.domain.n_values is None]
    static = [name for name in quantities if name in STATIC_QUANTITIES]
    conditional = [p.name for p in space.parameters if p.when]
    needs = []
    if space.is_conditional:
        needs.append(_Need(f"conditional parameters ({conditional[0]})", lambda facts: facts.conditional))
    if space.has_categorical:
        needs.append(_Need("categorical parameters (choice)", lambda facts: facts.categorical))
    if continuous:
        remedy = "or use choice or quniform"
        needs.append(_Need(f"continuous parameters ({continuous[0]})", lambda facts: facts.continuous, remedy))
    if len(search.objectives) > 1:
        needs.append(_Need("several objectives", lambda facts: facts.objectives))
    if search.scheduler != "none":
        remedy = "or set search.scheduler to none"
        what = f"trials that the scheduler ({search.scheduler}) stopped"
        needs.append(_Need(what, lambda facts: facts.stopped, remedy))
    if quantities:
        needs.append(_Need("constraints", lambda facts: facts.constraints != "refused"))
    if search.avoid is not None:
        needs.append(_Need("search.avoid", lambda facts: facts.constraints in ("learned", "filtered")))
    if static:
        what = f"constraints on what is known before training ({static[0]})"
        needs.append(_Need(what, lambda facts: facts.constraints in ("learned", "filtered")))
    return needs


def check_sampler(search: SearchSpec, space: SearchSpace, quantities: tuple[str, ...], n_trials: int) -> None:
    """Refuse a sampler that would not really search the space.

    Args:
        quantities: the names in `constraints`.
        n_trials: the budget.

    Raises:
        SamplerError: the message names what the sampler cannot take, and the samplers that can.
    """
    if not space.parameters:
        return
    facts, needs = SAMPLERS[search.sampler], _needs(search, space, quantities)
    for need in needs:
        if not need.test(facts):
            able = ", ".join(name for name, row in SAMPLERS.items() if all(n.test(row) for n in needs)) or "none"
            remedy = f" {need.remedy}," if need.remedy else ""
            raise SamplerError(f"{search.sampler} does not take {need.what};{remedy} samplers that take this: {able}")
    _check_options(search, space, n_trials)
    if search.sampler == "qmc" and len(space.parameters) > _MAX_SOBOL_DIMENSIONS:
        raise SamplerError(f"qmc takes at most {_MAX_SOBOL_DIMENSIONS} parameters, but got {len(space.parameters)}")


def _check_options(search: SearchSpec, space: SearchSpace, n_trials: int) -> None:
    every_option = frozenset[str]().union(*(row.options for row in SAMPLERS.values()))
    for option in sorted(every_option - SAMPLERS[search.sampler].options):
        if getattr(search, option) is not None:
            takers = ", ".join(name for name, row in SAMPLERS.items() if option in row.options)
            raise SamplerError(f"has no meaning for {search.sampler}, only for {takers}; leave it out", option)
    for option in ("n_startup_trials", "population_size"):
        value = getattr(search, option)
        if value is not None and value >= n_trials > 1:
            rule = f"must be less than budget.trials = {n_trials}, or every draw is random; got {value}"
            raise SamplerError(rule, option)
    if (
        search.sampler == "cmaes"
        and search.population_size is not None
        and search.population_size < MIN_CMAES_POPULATION
    ):
        rule = f"must be at least {MIN_CMAES_POPULATION} for cmaes, which weighs a generation's better half"
        raise SamplerError(f"{rule}; got {search.population_size}", "population_size")
    if search.group and search.multivariate is False:
        raise SamplerError("needs multivariate, but multivariate is false; leave one of them out", "group")
    if search.sampler == "grid":
        _check_grid(search, space)


def _check_grid(search: SearchSpec, space: SearchSpace) -> None:
    if search.try_first:
        raise SamplerError("has no meaning for grid, which tries every combination; leave it out", "try_first")
    try:
        space.grid()
    except SpaceError as error:
        raise SamplerError(error.rule) from None


# ------------------------------------------------------------------ building


def build_sampler(spec: Spec, seed: int) -> BaseSampler:
    """Build the spec's sampler for one proposal.

    The searcher builds it anew for every proposal, so that a resumed sweep proposes what an unbroken one would.

    Args:
        seed: spawned from (spec.seed, number of proposals so far); a sampler that needs one seed for the whole
            sweep (`seed_each_proposal` false) takes the spec's own.
    """
    search = spec.search
    if search.sampler == "tpe":
        return _build_tpe(search, seed)
    if search.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=_given(search.n_startup_trials), warn_independent_sampling=False)
    if search.sampler == "cmaes":
        return _build_cmaes(search, seed)
    if search.sampler == "nsgaii":
        return GeneticSampler(seed=seed, population_size=_given(search.population_size))
    if search.sampler == "qmc":
        return SobolSampler(spec.space, spec.seed)
    if search.sampler == "grid":
        return GridGuard()
    assert search.sampler == "random"
    return RandomSampler(seed=seed)


def _given(value: int | None) -> int:
    assert value is not None, "the spec is resolved"
    return value


def _build_tpe(search: SearchSpec, seed: int) -> TPESampler:
    assert search.multivariate is not None and search.constant_liar is not None, "the spec is resolved"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group`
        return TPESampler(
            seed=seed,
            n_startup_trials=_given(search.n_startup_trials),
            multivariate=search.multivariate,
            group=bool(search.group),
            constant_liar=search.constant_liar,
        )


def _build_cmaes(search: SearchSpec, seed: int) -> CmaEsSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `consider_pruned_trials`
        return CmaEsSampler(
            seed=seed,
            n_startup_trials=_given(search.n_startup_trials),
            popsize=search.population_size,
            # With a scheduler few trials run to the end, and no generation would ever fill.
            consider_pruned_trials=search.scheduler != "none",
            warn_independent_sampling=False,
        )


class GeneticSampler(NSGAIISampler):
    """NSGA-II whose parents stand in the order of their trials.

    Optuna gives a generation's first child the parents by rank, and keeps them in an attribute of the study, by
    trial, for the others. A study rebuilt from the journal has no such attribute, and its next child would differ.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class SobolSampler(BaseSampler):
    """Proposal n takes point n of one scrambled Sobol sequence.

    Optuna's own `QMCSampler` draws its first point at random, and keeps its place in an attribute of the study
    that a study rebuilt from the journal has not. Here the place is the trial's number. Every sampled value is
    `Domain.from_unit` of one coordinate.

    Args:
        seed: scrambles the sequence; the same for the whole sweep.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        assert not space.is_conditional
        self._space, self._seed = space, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._space.distributions()

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        # Sorted, so that the order of the file's lines does not change the points.
        parameters = sorted(self._space.parameters, key=lambda parameter: parameter.name)
        # `seed`, not `rng`: the same points as Optuna's own.
        engine = qmc.Sobol(len(parameters), scramble=True, seed=self._seed)
        if trial.number:  # the engine refuses to forward by 0
            engine.fast_forward(trial.number)
        units = engine.random(1)[0]
        point = {p.name: p.domain.from_unit(float(unit)) for p, unit in zip(parameters, units, strict=True)}
        return self._space.encode(point)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"{param_name} is a parameter of the space, and so is sampled by sample_relative")


class GridGuard(BaseSampler):
    """Stands in where every value comes from an enqueued point of `SearchSpace.grid()`; draws nothing."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise AssertionError(f"the grid's points are enqueued whole, but {param_name} was asked for")
