"""Every sampler is used as a sweep uses it: built anew for every proposal, with that proposal's seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, get_args

import numpy as np
import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import QMCSampler
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError

from platform.search.samplers import SAMPLERS, build_sampler
from platform.specs.sections import SamplerName
from platform.specs.spec import Spec
from tests.platform.small_spec import make_spec, search

optuna.logging.set_verbosity(optuna.logging.ERROR)

CONTINUOUS = {
    "model": "cnn",
    "lr": {"loguniform": [1e-4, 1e-1]},
    "dropout": {"uniform": [0, 0.9]},
    "depth": {"randint": [1, 6]},
}
CATEGORICAL = {**CONTINUOUS, "norm": {"choice": ["batch", "layer"]}}
CONDITIONAL = {
    "model": {"choice": ["cnn", "xresnet1d18"]},
    "depth": {"randint": [1, 6], "when": {"model": "cnn"}},
    "lr": {"loguniform": [1e-4, 1e-1]},
}
FINITE = {"dropout": {"quniform": [0, 0.2, 0.1]}, "batch_size": {"choice": [32, 64]}}
TWO = [{"metric": "val/auroc", "mode": "max"}, {"metric": "val/loss", "mode": "min"}]


def loss(point: Mapping[str, Any]) -> float:
    """A bowl with its bottom at lr = 1e-2, dropout = 0.2, depth = 4."""
    far = (np.log10(point.get("lr", 1e-2)) + 2) ** 2 + 4 * (point.get("dropout", 0.2) - 0.2) ** 2
    return float(far + ((point.get("depth", 4) - 4) / 3) ** 2 + (point.get("norm") == "layer"))


def run(spec: Spec, n_trials: int, study: optuna.Study | None = None, objectives: int = 1) -> list[dict[str, Any]]:
    """Propose and tell `n_trials` trials one by one; return the points."""
    study = study or optuna.create_study(directions=["minimize"] * objectives)
    points = []
    for _ in range(n_trials):
        number = len(study.trials)
        study.sampler = build_sampler(spec, seed=1000 + number)
        if spec.search.sampler == "grid":
            study.enqueue_trial(spec.space.encode(spec.space.grid()[number]))
        trial = study.ask()
        points.append(spec.space.suggest(trial))
        study.tell(trial, [loss(points[-1])] * objectives)
    return points


def mean_loss(points: list[dict[str, Any]]) -> float:
    return float(np.mean([loss(point) for point in points]))


def rebuilt(study: optuna.Study) -> optuna.Study:
    """Make the study again from its trials alone, as a resumed sweep does; attributes of the study are lost."""
    copy = optuna.create_study(directions=study.directions)
    copy.add_trials(study.trials)
    return copy


SPACES: list[tuple[str, dict[str, Any]]] = [
    ("tpe", CONDITIONAL),
    ("gp", CATEGORICAL),
    ("cmaes", CONTINUOUS),
    ("nsgaii", CATEGORICAL),
    ("qmc", CATEGORICAL),
    ("random", CONDITIONAL),
    ("grid", FINITE),
]


# ------------------------------------------------------------------ the table


def test_the_table_has_a_row_for_every_name_that_a_spec_may_give() -> None:
    assert sorted(SAMPLERS) == sorted(get_args(SamplerName))


def needs(facts: str) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "conditional": {"params": CONDITIONAL},
        "categorical": {"params": CATEGORICAL},
        "objectives": {"params": {**FINITE, "batch_size": 64}, "metric": TWO},
        "stopped": {"params": {**FINITE, "batch_size": 64}, "scheduler": "asha"},
    }
    return sections[facts]


@pytest.mark.parametrize(
    ("facts", "able"),
    [
        ("conditional", {"tpe", "random"}),  # and grid, where the domains have lists of values
        ("categorical", {"tpe", "gp", "nsgaii", "qmc", "random"}),
        ("objectives", {"tpe", "nsgaii", "qmc", "random", "grid"}),
        ("stopped", {"tpe", "cmaes", "qmc", "random", "grid"}),
    ],
)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sampler_is_refused_where_it_would_draw_at_random(sampler: str, facts: str, able: set[str]) -> None:
    keys = needs(facts)
    params = keys.pop("params")
    section = search(sampler=sampler, **keys)
    if sampler in able:
        make_spec(params, search=section)
        return
    with pytest.raises(ValidationError, match=f"{sampler} does not take .*; .*samplers that take this: ") as caught:
        make_spec(params, search=section)
    if sampler != "grid":  # of the grid, the continuous parameters may be refused first
        named = str(caught.value).split("samplers that take this: ")[1].split(" [")[0].split(", ")
        assert set(named) >= able - {"grid"}
        assert sampler not in named


def test_a_conditional_grid_is_taken() -> None:
    spec = make_spec({**CONDITIONAL, "lr": {"choice": [1e-3, 1e-2]}}, search=search(sampler="grid"))
    assert spec.budget.trials == 2 * (6 + 1)


@pytest.mark.parametrize(
    ("sampler", "constraint", "taken"),
    [
        ("tpe", "onnx_bytes <= 4e6", True),
        ("random", "onnx_bytes <= 4e6", True),
        ("qmc", "parameters <= 1e6", True),
        ("nsgaii", "onnx_bytes <= 4e6", True),
        ("gp", "onnx_bytes <= 4e6", False),
        ("gp", "peak_memory_bytes <= 1e9", True),
        ("cmaes", "peak_memory_bytes <= 1e9", False),
    ],
)
def test_constraints_go_to_samplers_that_heed_them(sampler: str, constraint: str, taken: bool) -> None:
    def build() -> Spec:
        return make_spec(CONTINUOUS, search=search(sampler=sampler), constraints=[constraint])

    if taken:
        assert build().search.sampler == sampler
    else:
        with pytest.raises(ValidationError, match=f"{sampler} does not take constraints"):
            build()


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"sampler": "random", "n_startup_trials": 5}, "has no meaning for random, only for tpe, gp, cmaes"),
        ({"sampler": "tpe", "population_size": 5}, "has no meaning for tpe, only for cmaes, nsgaii"),
        ({"sampler": "tpe", "n_startup_trials": 40}, "less than budget.trials = 40, or every draw is random; got 40"),
        ({"sampler": "nsgaii", "population_size": 40}, "less than budget.trials = 40"),
        ({"sampler": "tpe", "group": True, "multivariate": False}, "needs multivariate"),
    ],
)
def test_options_that_would_do_nothing_are_refused(keys: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        make_spec(CONTINUOUS, search=search(**keys))


def test_a_grid_takes_no_points_to_try_first() -> None:
    with pytest.raises(ValidationError, match="grid, which tries every combination"):
        make_spec(FINITE, search=search(sampler="grid", try_first=[{"dropout": 0.1}]))


# ------------------------------------------------------------------ proposals


@pytest.mark.parametrize(("sampler", "params"), SPACES)
def test_a_resumed_study_proposes_what_the_unbroken_one_does(sampler: str, params: dict[str, Any]) -> None:
    extra = {"n_startup_trials": 3} if sampler in ("tpe", "gp") else {}
    spec = make_spec(params, search=search(sampler=sampler, **extra))
    n_trials, n_more = (4, 2) if sampler == "grid" else (12, 2 if sampler == "gp" else 4)
    unbroken = optuna.create_study()
    run(spec, n_trials, unbroken)
    resumed = rebuilt(unbroken)
    assert run(spec, n_more, resumed) == run(spec, n_more, unbroken)


@pytest.mark.parametrize(("sampler", "params"), SPACES)
def test_points_lie_in_the_space_and_nothing_warns(sampler: str, params: dict[str, Any]) -> None:
    spec = make_spec(params, search=search(sampler=sampler))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        points = run(spec, 6)
    assert all(spec.space.contains(point) for point in points)


MODEL_MARKS = {
    "tpe": "tpe:relative_params:0",
    "gp": "gp:relative_params:0",
    "cmaes": "cma:generation",
    "nsgaii": "GeneticSampler:generation",
}
"""The system attribute that a sampler gives to the trials that it did not draw at random (NSGA-II: to all)."""


def random_loss(spec: Spec) -> float:
    return mean_loss([spec.space.sample(np.random.default_rng(seed)) for seed in range(300)])


@pytest.mark.parametrize(
    ("sampler", "n_trials", "options"),
    [
        ("tpe", 60, {"n_startup_trials": 8}),
        ("gp", 18, {"n_startup_trials": 6}),
        ("cmaes", 80, {"population_size": 8}),
        ("nsgaii", 100, {"population_size": 8}),
    ],
)
def test_a_model_based_sampler_leaves_the_random_phase(sampler: str, n_trials: int, options: dict[str, Any]) -> None:
    spec = make_spec(CONTINUOUS, search=search(sampler=sampler, **options), budget={"trials": n_trials, "epochs": 9})
    study = optuna.create_study()
    points = run(spec, n_trials, study)
    assert np.median([loss(point) for point in points[-n_trials // 3 :]]) < 0.5 * random_loss(spec)
    assert len({str(point) for point in points}) > 0.6 * n_trials  # NSGA-II has twins
    assert all(MODEL_MARKS[sampler] in trial.system_attrs for trial in study.trials[-n_trials // 3 :])


def test_cmaes_fills_generations_with_trials_that_the_scheduler_stopped() -> None:
    spec = make_spec(CONTINUOUS, search=search(sampler="cmaes", population_size=6, scheduler="asha"))
    study = optuna.create_study()
    run(spec, 1, study)  # Optuna learns the space from the first trial that ran to the end
    for number in range(60):
        study.sampler = build_sampler(spec, seed=number)
        trial = study.ask()
        trial.report(loss(spec.space.suggest(trial)), step=1)
        study.tell(trial, state=TrialState.PRUNED)
    values = [t.intermediate_values[1] for t in study.trials[1:]]
    assert np.median(values[-20:]) < 0.5 * random_loss(spec)
    assert study.trials[-1].system_attrs["cma:generation"] == 9


def test_cmaes_takes_a_space_of_one_parameter() -> None:
    spec = make_spec({"lr": {"loguniform": [1e-4, 1e-1]}}, search=search(sampler="cmaes", population_size=5))
    points = run(spec, 36)
    assert mean_loss(points[-10:]) < 0.3 * mean_loss(points[:6])


def test_nsgaii_moves_on_by_generations_although_it_is_rebuilt() -> None:
    spec = make_spec(CATEGORICAL, search=search(sampler="nsgaii", population_size=5))
    study = optuna.create_study()
    run(spec, 16, study)
    assert [t.system_attrs["GeneticSampler:generation"] for t in study.trials] == [0] * 5 + [1] * 5 + [2] * 5 + [3]


@pytest.mark.parametrize("params", [CONTINUOUS, CATEGORICAL])
def test_qmc_is_optunas_scrambled_sobol_sequence_from_its_first_point_on(params: dict[str, Any]) -> None:
    spec = make_spec(params, search=search(sampler="qmc"))
    ours = run(spec, 17)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        theirs = optuna.create_study(sampler=QMCSampler(scramble=True, seed=spec.seed))
    in_order = dict(sorted(spec.space.distributions().items()))
    theirs.tell(theirs.ask(in_order), 0.0)  # random: from it Optuna learns the space
    expected = []
    for _ in range(16):
        trial = theirs.ask(in_order)
        expected.append(spec.space.decode(trial.params))
        theirs.tell(trial, 0.0)
    for ours_n, theirs_n in zip(ours, expected, strict=False):
        assert ours_n.keys() == theirs_n.keys()
        for name, value in theirs_n.items():
            assert ours_n[name] == (value if isinstance(value, str | int) else pytest.approx(value, rel=1e-9))


def test_qmc_repeats_no_point_and_covers_every_eighth_of_a_range() -> None:
    spec = make_spec(CONTINUOUS, search=search(sampler="qmc"))
    dropouts = [point["dropout"] for point in run(spec, 16)]
    assert len(set(dropouts)) == 16
    assert np.histogram(dropouts, bins=8, range=(0, 0.9))[0].tolist() == [2] * 8


def test_the_grid_is_served_in_order_and_asks_for_nothing_else() -> None:
    spec = make_spec(FINITE, search=search(sampler="grid"))
    assert run(spec, spec.budget.trials) == spec.space.grid()
    study = optuna.create_study(sampler=build_sampler(spec, 0))
    with pytest.raises(AssertionError, match="enqueued whole"):
        spec.space.suggest(study.ask())


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "qmc", "random"])
def test_several_objectives_are_searched(sampler: str) -> None:
    spec = make_spec(CONTINUOUS, search=search(sampler=sampler, metric=TWO))
    assert len(run(spec, 12, objectives=2)) == 12


def feasible_share(sampler: str, n_trials: int) -> float:
    """Share of later proposals with lr below a bound that lies away from the bowl's bottom."""
    spec = make_spec(CONTINUOUS, search=search(sampler=sampler), constraints=["peak_memory_bytes <= 1e9"])
    study = optuna.create_study()
    below: list[bool] = []
    for number in range(n_trials):
        study.sampler = build_sampler(spec, seed=number)
        trial = study.ask()
        point = spec.space.suggest(trial)
        below.append(point["lr"] < 1e-3)
        trial.set_constraint("bound", np.log10(point["lr"]) + 3)
        study.tell(trial, loss(point))
    return float(np.mean(below[n_trials // 2 :]))


@pytest.mark.parametrize(("sampler", "n_trials"), [("tpe", 60), ("gp", 24), ("nsgaii", 80)])
def test_samplers_that_learn_constraints_propose_what_is_feasible(sampler: str, n_trials: int) -> None:
    assert feasible_share(sampler, n_trials) > 0.55  # a third of the range of log(lr) is feasible


# ------------------------------------------------------------------ golden


def golden(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: round(v, 6) if isinstance(v, float) else v for k, v in point.items()} for point in points]


def test_the_same_spec_and_seed_give_the_same_configurations() -> None:
    spec = make_spec(CONDITIONAL, search=search(sampler="tpe", n_startup_trials=3))
    first, second = run(spec, 10), run(spec, 10)
    assert golden(first) == golden(second)


def trial_of(study: optuna.Study, choose: Callable[[FrozenTrial], bool]) -> FrozenTrial:
    return next(trial for trial in study.trials if choose(trial))


def test_running_trials_are_kept_away_from_although_the_sampler_is_rebuilt() -> None:
    spec = make_spec(CONTINUOUS, search=search(sampler="tpe", n_startup_trials=5))
    study = optuna.create_study()
    run(spec, 12, study)
    points = []
    for number in range(4):
        study.sampler = build_sampler(spec, seed=77 + number)
        points.append(str(spec.space.suggest(study.ask())))
    assert len(set(points)) == 4
    running = trial_of(study, lambda trial: trial.state == TrialState.RUNNING)
    assert any(key.startswith("tpe:relative_params") for key in running.system_attrs)
