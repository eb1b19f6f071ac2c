"""Which of a stage's trials another stage starts from."""

from __future__ import annotations

from platform.chains.chain import best_with

BEST = {"model": "OptimizedAFNet", "lr": 5e-3}
RANKED = [BEST, {"model": "AFNet", "lr": 2e-3}, {"model": "AFNet", "lr": 1e-3}]


def test_a_stage_starts_from_the_best_trial() -> None:
    assert best_with({}, BEST, RANKED) is BEST
    assert best_with({"model": "OptimizedAFNet"}, BEST, RANKED) is BEST


def test_a_stage_that_names_another_model_starts_from_the_best_trial_of_that_model() -> None:
    assert best_with({"model": "AFNet"}, BEST, RANKED) == {"model": "AFNet", "lr": 2e-3}


def test_a_model_that_no_trial_had_takes_the_best_trials_other_parameters() -> None:
    assert best_with({"model": "ShuffleNetV2"}, BEST, RANKED) is BEST
