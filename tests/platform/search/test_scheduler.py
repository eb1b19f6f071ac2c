from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler
from ray.tune.schedulers.async_hyperband import ASHAScheduler, _Bracket

from platform.search.scheduler import CooperativeScheduler, Rule, build_rule, rungs
from platform.specs.spec import Spec
from tests.platform.small_spec import make_spec, search

Report = tuple[str, int, float]


def asha_spec(epochs: int = 27, **keys: Any) -> Spec:
    return make_spec(search=search(**{"scheduler": "asha", "grace_period": 1, **keys}), budget={"epochs": epochs})


def make_rule(spec: Spec, seed: int = 5) -> Rule:
    return Rule(build_rule(spec), spec.budget.epochs, seed)


def judge(rule: Rule, trial: str, epoch: int, best: float) -> bool:
    return rule.judge(trial, epoch, {"val/auroc": best, "best/val/auroc": best})


# ------------------------------------------------------------------ rungs


@given(
    grace=st.integers(1, 30),
    times=st.integers(1, 300),
    eta=st.one_of(st.integers(2, 6).map(float), st.floats(1.2, 6)),
)
def test_rungs_are_the_epochs_at_which_rays_bracket_compares(grace: int, times: int, eta: float) -> None:
    longest = grace * times
    bracket = _Bracket(grace, longest, eta, 0, stop_last_trials=False)
    expected = sorted(math.ceil(milestone) for milestone, _ in bracket._rungs)
    assert list(rungs(grace, longest, eta)) == expected


@pytest.mark.parametrize(
    ("grace", "longest", "eta", "expected"),
    [
        (1, 243, 3, (1, 3, 9, 27, 81)),
        (1, 1000, 10, (1, 10, 100)),
        (3, 27, 3, (3, 9, 27)),
        (1, 27, 2.5, (1, 3, 7, 16)),
        (5, 5, 3, (5,)),
    ],
)
def test_rungs_of_known_ladders(grace: int, longest: int, eta: float, expected: tuple[int, ...]) -> None:
    assert rungs(grace, longest, eta) == expected


@pytest.mark.parametrize("eta", [2.0, 2.5, 3.0])
def test_a_trial_is_only_ever_compared_at_a_rung(eta: float) -> None:
    spec = asha_spec(reduction_factor=eta)
    rule = make_rule(spec)
    for epoch in range(1, 28):
        assert not judge(rule, "good", epoch, 0.9)
    stops = []
    for start in range(1, 27):
        fresh = make_rule(spec)
        for epoch in range(1, 28):
            judge(fresh, "good", epoch, 0.9)
        for epoch in range(1, 28):
            if judge(fresh, "bad", epoch, 0.95 if epoch < start else 0.1):
                stops.append(epoch)
                break
    assert set(stops) == set(rungs(1, 27, eta)) - {27}


def test_the_rules_rungs_are_those_that_the_dry_run_prints() -> None:
    rule = make_rule(asha_spec(243))
    assert sorted(rule.rung_scores()[0]) == [1, 3, 9, 27, 81]
    assert make_rule(make_spec()).rung_scores() == []


# ------------------------------------------------------------------ verdicts


def test_asha_keeps_the_best_third_at_a_rung() -> None:
    rule = make_rule(asha_spec())
    assert [judge(rule, f"t{i}", 1, value) for i, value in enumerate([0.5, 0.6, 0.7, 0.63, 0.4])] == [
        False,  # the first at a rung has nobody to be compared with
        False,
        False,
        True,  # below 0.633, the 2/3 quantile of 0.5, 0.6, 0.7
        True,
    ]


def test_asha_judges_a_trial_by_its_best_epoch() -> None:
    rule = make_rule(asha_spec(grace_period=3))
    rule.judge("a", 3, {"val/auroc": 0.1, "best/val/auroc": 0.9})
    assert rule.judge("b", 3, {"val/auroc": 0.89, "best/val/auroc": 0.89})
    assert not rule.judge("c", 3, {"val/auroc": 0.2, "best/val/auroc": 0.91})


def test_asha_makes_small_values_win_where_the_mode_is_min() -> None:
    spec = make_spec(search={"metric": "val/loss", "mode": "min", "grace_period": 1}, budget={"epochs": 9})
    rule = make_rule(spec)
    assert not rule.judge("a", 1, {"val/loss": 1.0, "best/val/loss": 1.0})
    assert rule.judge("b", 1, {"val/loss": 2.0, "best/val/loss": 2.0})


@pytest.mark.parametrize("longest", [9, 10])
def test_the_last_epoch_is_never_stopped(longest: int) -> None:
    rule = make_rule(asha_spec(longest, grace_period=longest))
    judge(rule, "good", longest, 0.9)
    assert not judge(rule, "bad", longest, 0.1)


def test_a_trial_without_a_rule_is_never_stopped() -> None:
    rule = make_rule(make_spec())
    assert not any(judge(rule, f"t{i}", epoch, 1 / (i + 1)) for i in range(5) for epoch in range(1, 10))


def test_the_median_rule_stops_below_the_median_of_the_others_means_since_the_grace_period() -> None:
    spec = make_spec(search=search(scheduler="median", grace_period=2), budget={"epochs": 9})
    rule = make_rule(spec)
    curves = {"a": [0.5, 0.6, 0.7], "b": [0.6, 0.7, 0.8], "c": [0.7, 0.8, 0.9]}
    for name, values in curves.items():
        assert not any(judge(rule, name, epoch, value) for epoch, value in enumerate(values, start=1))
    # At epoch 2 the others' means are 0.6, 0.7, 0.8, and then 0.6, 0.64, 0.7, 0.8.
    assert not judge(rule, "low", 1, 0.1)  # within the grace period
    assert judge(rule, "low", 2, 0.64)
    assert not judge(rule, "high", 1, 0.1)
    assert not judge(rule, "high", 2, 0.68)


# ------------------------------------------------------------------ resuming


REPORTS = st.lists(st.tuples(st.sampled_from([f"t{i}" for i in range(6)]), st.floats(0, 1)), min_size=1, max_size=40)


def with_epochs(draws: list[tuple[str, float]]) -> list[Report]:
    """Give each trial's reports the epochs 1, 2, 3, ..."""
    epochs: dict[str, int] = {}
    reports = []
    for trial, value in draws:
        epochs[trial] = epochs.get(trial, 0) + 1
        reports.append((trial, epochs[trial], value))
    return reports


KINDS = [
    asha_spec(9),
    asha_spec(9, brackets=3),
    asha_spec(9, reduction_factor=2.0),
    asha_spec(9, scheduler="median"),
]


@pytest.mark.parametrize("spec", KINDS)
@settings(max_examples=25, deadline=None)
@given(draws=REPORTS, cut=st.integers(0, 40))
def test_a_rule_refed_from_a_journal_judges_as_the_unbroken_one(
    spec: Spec, draws: list[tuple[str, float]], cut: int
) -> None:
    reports = with_epochs(draws)
    unbroken, refed = make_rule(spec), make_rule(spec)
    verdicts = [judge(unbroken, *report) for report in reports]
    for report in reports[:cut]:
        judge(refed, *report)
    np.random.seed(1)  # another process' global generator
    assert [judge(refed, *report) for report in reports[cut:]] == verdicts[cut:]
    assert refed.rung_scores() == unbroken.rung_scores()
    assert refed.stopped == unbroken.stopped


def test_rules_agree_with_rays_scheduler_fed_by_ray() -> None:
    """One bracket, so that nothing is drawn; Ray's own object, with Ray's kind of trial, as reference."""
    spec = asha_spec(9)
    ours = make_rule(spec)
    rays = ASHAScheduler(
        time_attr="epoch", metric="m", mode="max", max_t=9, grace_period=1, reduction_factor=3, stop_last_trials=False
    )
    rng, controller = np.random.default_rng(0), SimpleNamespace()
    for i in range(30):
        trial: Any = SimpleNamespace(trial_id=f"t{i}")
        rays.on_trial_add(controller, trial)  # type: ignore[arg-type]
        for epoch in range(1, 9):
            value = float(rng.random())
            action = rays.on_trial_result(controller, trial, {"epoch": epoch, "m": value})  # type: ignore[arg-type]
            assert judge(ours, trial.trial_id, epoch, value) == (action == TrialScheduler.STOP)
            if action == TrialScheduler.STOP:
                break


def test_a_trials_bracket_depends_on_the_seed_and_its_name_alone() -> None:
    def brackets(names: list[str], seed: int) -> dict[str, int]:
        rule = make_rule(asha_spec(brackets=3), seed)
        for name in names:
            judge(rule, name, 27, 0.5)  # recorded at its bracket's top rung
        return {name: i for i, rungs_ in enumerate(rule.rung_scores()) for s in rungs_.values() for name in s}

    names = [f"t{i:04d}" for i in range(40)]
    first = brackets(names, seed=1)
    assert set(first.values()) == {0, 1, 2}
    assert brackets(names[::-1], seed=1) == first
    assert brackets(names, seed=2) != first


def test_numpys_global_generator_is_left_alone() -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    judge(make_rule(asha_spec(brackets=3)), "t0000", 1, 0.5)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]


# ------------------------------------------------------------------ Tune's side


class FakeStudy:
    def __init__(self, overdue: set[str]) -> None:
        self.overdue, self.calls = overdue, list[tuple[Any, ...]]()
        self.running = ["t0000", "t0001"]

    def is_overdue(self, name: str) -> bool:
        return name in self.overdue

    def on_message(self, trial: str, message: dict[str, Any]) -> None:
        self.calls.append(("message", trial, message))

    def on_gone(self, trial: str, error: str | None) -> None:
        self.calls.append(("gone", trial, error))


class FakeController:
    def __init__(self) -> None:
        self.trials = [
            SimpleNamespace(
                config={"trial": f"t000{i}"}, status="RUNNING", temporary_state=SimpleNamespace(ray_actor=f"actor {i}")
            )
            for i in range(2)
        ]

    def get_live_trials(self) -> set[int]:
        return self.trials  # type: ignore[return-value]

    def get_trials(self) -> list[Any]:
        return self.trials


def test_the_scheduler_passes_reports_on_and_never_stops_a_trial() -> None:
    study: Any = FakeStudy(set())
    scheduler, controller = CooperativeScheduler(study), FakeController()
    trial: Any = controller.trials[0]
    result = {"epoch": 1, "metrics/val/auroc": 0.5, "done": False}
    assert scheduler.on_trial_result(controller, trial, result) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
    repeated = {**result, "done": True}
    assert scheduler.on_trial_result(controller, trial, repeated) == TrialScheduler.CONTINUE  # type: ignore[arg-type]
    assert study.calls == [("message", "t0000", result)]


def test_the_scheduler_says_which_trial_is_gone() -> None:
    study: Any = FakeStudy(set())
    trial: Any = SimpleNamespace(config={"trial": "t0001"})
    CooperativeScheduler(study).on_trial_complete(FakeController(), trial, {})  # type: ignore[arg-type]
    assert study.calls == [("gone", "t0001", None)]


def test_only_the_process_of_an_overdue_trial_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr("ray.kill", killed.append)
    study: Any = FakeStudy({"t0001"})
    CooperativeScheduler(study).choose_trial_to_run(FakeController())  # type: ignore[arg-type]
    assert killed == ["actor 1"]
