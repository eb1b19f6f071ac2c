from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from platform.specs.domains import (
    VERBS,
    Choice,
    Domain,
    LogRandInt,
    LogUniform,
    QRandInt,
    QUniform,
    RandInt,
    Uniform,
    parse_domain,
)
from platform.specs.search_space import SpaceError, flatten, parse_space
from trainables.method import nest

optuna.logging.set_verbosity(optuna.logging.WARNING)

QUICKSTART = {
    "model": {"choice": ["xresnet1d18", "cnn"]},
    "lr": {"loguniform": [1e-4, 1e-2]},
    "channels": {"choice": [16, 32, 64], "when": {"model": "cnn"}},
}


# ------------------------------------------------------------------ verbs


def test_every_verb_of_the_format_is_known() -> None:
    verbs = "uniform loguniform quniform randint lograndint qrandint choice"
    assert list(VERBS) == verbs.split()
    assert all(domain.verb == verb for verb, domain in VERBS.items())  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", ["randint", "lograndint", "qrandint"])
def test_integer_ranges_include_both_ends(verb: str) -> None:
    domain = parse_domain(verb, [2, 8, 2] if verb == "qrandint" else [2, 8])
    drawn = {domain.from_unit(unit) for unit in np.linspace(0, 1, 2001, endpoint=False)}
    assert min(drawn) == 2
    assert max(drawn) == 8
    assert drawn == set(range(2, 9, 2 if verb == "qrandint" else 1))


def test_a_quantised_range_has_decimal_values_without_rounding_dust() -> None:
    domain = QUniform(0.1, 0.5, 0.1)
    assert [domain.value_at(index) for index in range(domain.n_values)] == [0.1, 0.2, 0.3, 0.4, 0.5]


@pytest.mark.parametrize(
    ("verb", "arguments", "rule"),
    [
        ("uniform", [2, 1], r"`low <= high` must hold, but got \(low=2.0, high=1.0\)"),
        ("loguniform", [0, 1], r"`low > 0` must hold on a log scale, but got \(low=0.0\)"),
        ("lograndint", [0, 10], r"`low > 0` must hold on a log scale, but got \(low=0\)"),
        ("quniform", [0, 1, 0], r"`q > 0` must hold, but got \(q=0.0\)"),
        ("quniform", [0, 1, 0.3], "`high - low` must be a multiple of `q`"),
        ("qrandint", [0, 10, 3], "`high - low` must be a multiple of `q`"),
        ("randint", [1.5, 3], "must be an integer, but got 1.5"),
        ("randint", [True, 3], "must be an integer, but got True"),
        ("uniform", [0, math.inf], "must be a finite number, but got inf"),
        ("uniform", [0, math.nan], "must be a finite number, but got nan"),
        ("uniform", ["0", 1], "must be a finite number, but got '0'"),
        ("uniform", [0], r"`uniform` takes \[low, high\], but got \[0\]"),
        ("uniform", {"low": 0}, r"`uniform` takes \[low, high\]"),
        ("choice", [], "needs at least one value"),
        ("choice", [1, 1.0], "values must differ, but got 1 and 1.0"),
        ("choice", [1, True], "values must differ, but got 1 and True"),
        ("choice", [[1, 2], "[1, 2]"], "values must differ"),
    ],
)
def test_a_verb_refuses_what_breaks_its_rule(verb: str, arguments: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_domain(verb, arguments)


@pytest.mark.parametrize(
    ("domain", "reference"),
    [
        (Uniform(-1, 3), stats.uniform(-1, 4)),
        (LogUniform(1e-4, 1e-1), stats.loguniform(1e-4, 1e-1)),
        (RandInt(3, 7), stats.randint(3, 8)),
        (QRandInt(0, 8, 2), stats.randint(0, 5)),
    ],
)
def test_uniform_numbers_give_the_verbs_distribution(domain: Domain, reference: Any) -> None:
    scale = 2 if isinstance(domain, QRandInt) else 1
    drawn = np.array([domain.from_unit(unit) for unit in (np.arange(5000) + 0.5) / 5000]) / scale
    for probability in (0.1, 0.5, 0.9):
        quantile = reference.ppf(probability)
        assert (drawn <= quantile).mean() == pytest.approx(reference.cdf(quantile), abs=2e-3)


def domains() -> st.SearchStrategy[Domain]:
    numbers = st.floats(1e-6, 1e3, allow_nan=False)
    integers = st.integers(1, 500)
    return st.one_of(
        st.tuples(numbers, numbers).map(lambda pair: Uniform(min(pair), max(pair))),
        st.tuples(numbers, numbers).map(lambda pair: LogUniform(min(pair), max(pair))),
        st.tuples(integers, integers).map(lambda pair: RandInt(min(pair), max(pair))),
        st.tuples(integers, integers).map(lambda pair: LogRandInt(min(pair), max(pair))),
        st.tuples(integers, integers, integers).map(lambda t: QRandInt(t[0], t[0] + t[1] * t[2], t[2])),
        st.tuples(st.integers(0, 50), integers, st.sampled_from([0.05, 0.1, 0.25, 2.0])).map(
            lambda t: QUniform(t[0] / 4, float(round(t[0] / 4 + t[1] * t[2], 6)), t[2])
        ),
        st.lists(st.one_of(st.none(), st.text(), st.lists(integers, max_size=3)), min_size=1, unique_by=str).map(
            lambda values: Choice(tuple(values))
        ),
    )


@given(domain=domains(), unit=st.floats(0, 1, exclude_max=True))
def test_what_a_domain_draws_it_accepts_and_optuna_gives_it_back(domain: Domain, unit: float) -> None:
    value = domain.from_unit(unit)
    assert domain.accept(value) == value
    distribution = domain.distribution()
    stored = distribution.to_external_repr(distribution.to_internal_repr(domain.encode(value)))
    assert domain.decode(stored) == value
    assert parse_domain(domain.verb, domain.to_yaml()) == domain


# ------------------------------------------------------------------ suggest


@pytest.mark.parametrize("seed", range(5))
def test_optuna_is_asked_for_the_active_parameters_only(seed: int) -> None:
    space = parse_space(QUICKSTART)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    for _ in range(8):
        trial = study.ask()
        point = space.suggest(trial)
        assert ("channels" in point) == (point["model"] == "cnn")
        assert space.contains(point)
        assert space.decode(trial.params) == point
        assert trial.distributions == {name: space.distributions()[name] for name in point}


def test_lists_pass_through_optuna_as_text() -> None:
    space = parse_space({"channels": {"choice": [32, [16, 32], None]}})
    study = optuna.create_study()
    study.enqueue_trial(space.encode({"channels": [16, 32]}))
    trial = study.ask()
    assert space.suggest(trial) == {"channels": [16, 32]}
    assert trial.params == {"channels": "[16, 32]"}


def test_both_ends_of_an_integer_range_can_be_enqueued() -> None:
    space = parse_space({"depth": {"randint": [1, 4]}})
    study = optuna.create_study()
    for depth in (1, 4):
        study.enqueue_trial({"depth": depth})
        assert space.suggest(study.ask()) == {"depth": depth}


# ------------------------------------------------------------------ conditions


def test_nested_conditions_resolve_parents_first_whatever_the_order_of_the_file() -> None:
    space = parse_space(
        {
            "c": {"choice": [5, 6], "when": {"b": 1}},
            "b": {"randint": [0, 1], "when": {"a": ["x", "y"]}},
            "a": {"choice": ["x", "y", "z"]},
        }
    )
    assert space.names.index("a") < space.names.index("b") < space.names.index("c")
    points = space.grid()
    assert {"a": "z"} in points
    assert {"a": "x", "b": 0} in points
    assert {"a": "y", "b": 1, "c": 6} in points
    assert len(points) == 1 + 2 * (1 + 2)


def test_every_condition_must_hold() -> None:
    space = parse_space(
        {"a": {"choice": [0, 1]}, "b": {"choice": [0, 1]}, "c": {"choice": [7], "when": {"a": 1, "b": 1}}}
    )
    assert [point for point in space.grid() if "c" in point] == [{"a": 1, "b": 1, "c": 7}]


def test_a_fixed_value_settles_the_conditions_on_it() -> None:
    kept = parse_space({**QUICKSTART, "model": "cnn"})
    assert kept.names == ("lr", "channels")
    assert not kept.is_conditional
    dropped = parse_space({**QUICKSTART, "model": "xresnet1d18"})
    assert dropped.names == ("lr",)


def test_what_hangs_on_a_parameter_that_is_never_active_is_dropped_too() -> None:
    params = {"a": 1, "b": {"choice": [1, 2], "when": {"a": 2}}, "c": {"choice": [1, 2], "when": {"b": 1}}}
    assert parse_space(params).names == ()


@pytest.mark.parametrize(
    ("params", "path", "rule"),
    [
        ({"a": {"choice": [1], "when": {"b": 1}}, "b": {"choice": [1], "when": {"a": 1}}}, "when", "form a cycle"),
        ({"a": {"choice": [1], "when": {"a": 1}}}, "when", "form a cycle"),
        ({**QUICKSTART, "x": {"choice": [1], "when": {"modl": "cnn"}}}, "modl", "no parameter of that name"),
        ({**QUICKSTART, "x": {"choice": [1], "when": {"model": "cn"}}}, "model", "can never hold"),
        ({**QUICKSTART, "x": {"choice": [1], "when": {"model": []}}}, "model", "at least one value"),
        ({**QUICKSTART, "x": {"choice": [1], "when": {"lr": 1e-3}}}, "lr", "a parent with a list of values"),
        ({"x": {"choice": [1], "when": "model"}}, "x", "`when` takes"),
        ({"x": {"when": {"model": "cnn"}}}, "x", "needs one verb"),
        ({"x": {"uniform": [0, 1], "choice": [1]}}, "x", "needs one verb .* got uniform and choice"),
        ({"x": {"uniform": [0, 1], "whem": {}}}, "whem", "unknown key beside `uniform`"),
        ({"a": {"b": 1}, "a.b": 2}, "a.b", "is given twice"),
        ({"a": 1, "a.b": 2}, "a.b", "is given twice"),
        ({1: 2}, "", "a parameter's name must be text"),
    ],
)
def test_a_space_that_breaks_a_rule_says_where(params: dict[str, Any], path: str, rule: str) -> None:
    with pytest.raises(SpaceError, match=rule) as caught:
        parse_space(params)
    assert (caught.value.path or ("",))[-1] == path


def test_a_mistyped_parent_gets_the_nearest_name() -> None:
    with pytest.raises(SpaceError) as caught:
        parse_space({**QUICKSTART, "x": {"choice": [1], "when": {"modl": "cnn"}}})
    assert caught.value.suggestion == "model"


# ------------------------------------------------------------------ points and grids


def test_nested_parameters_and_dotted_keys_are_the_same() -> None:
    nested = parse_space({"augment": {"noise": {"uniform": [0, 1]}, "crop": 3}})
    dotted = parse_space({"augment.noise": {"uniform": [0, 1]}, "augment.crop": 3})
    assert nested == dotted
    assert nested.fixed == {"augment.crop": 3}


@given(st.dictionaries(st.text("abc", min_size=1), st.dictionaries(st.text("xyz", min_size=1), st.integers())))
def test_nesting_undoes_flattening(params: dict[str, Any]) -> None:
    assert nest(flatten(params)) == params


def test_a_partial_point_is_accepted_and_a_contradictory_one_refused() -> None:
    space = parse_space(QUICKSTART)
    assert space.accept({"lr": 1e-3}) == {"lr": 1e-3}
    assert space.accept({"channels": 16}) == {"channels": 16}
    with pytest.raises(SpaceError, match="active only where model is 'cnn', but got 'xresnet1d18'"):
        space.accept({"model": "xresnet1d18", "channels": 16})
    with pytest.raises(SpaceError, match=r"lr: must lie in \[0.0001, 0.01\], but got 1"):
        space.accept({"lr": 1})
    with pytest.raises(SpaceError, match="not a searched parameter"):
        space.accept({"lrr": 1})


def test_a_space_contains_whole_points_only() -> None:
    space = parse_space(QUICKSTART)
    assert space.contains({"model": "xresnet1d18", "lr": 1e-3})
    assert not space.contains({"model": "cnn", "lr": 1e-3})
    assert not space.contains({"model": "xresnet1d18", "lr": 1e-3, "channels": 16})
    assert not space.contains({"model": "xresnet1d18", "lr": 1.0})


def test_the_grid_has_each_valid_combination_once() -> None:
    space = parse_space({**QUICKSTART, "lr": {"choice": [1e-3, 1e-2]}})
    points = space.grid()
    expected = [{"model": "xresnet1d18", "lr": lr} for lr in (1e-3, 1e-2)]
    expected += [{"model": "cnn", "lr": lr, "channels": c} for lr, c in product((1e-3, 1e-2), (16, 32, 64))]
    assert sorted(map(str, points)) == sorted(map(str, expected))
    assert all(space.contains(point) for point in points)


def test_a_grid_needs_lists_of_values_and_says_so() -> None:
    with pytest.raises(SpaceError, match="lr: grid needs a list of values, but got loguniform; use choice or quniform"):
        parse_space(QUICKSTART).grid()
    with pytest.raises(SpaceError, match="more than 100000 combinations"):
        parse_space({"a": {"randint": [0, 10**9]}}).grid()


@given(st.integers(0, 2**32 - 1))
def test_random_points_are_points_of_the_space(seed: int) -> None:
    space = parse_space(QUICKSTART)
    assert space.contains(space.sample(np.random.default_rng(seed)))
