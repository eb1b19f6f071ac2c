"""Greedy ensemble selection against enumerations, and the network that averages."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import mean_squared_error, roc_auc_score
from torch import nn

from trainables.ensemble import MeanAnswer, mean_prediction, select_members

Floats = NDArray[np.float64]
SETTINGS = settings(max_examples=15, deadline=None)


def problem(seed: int, n_members: int, n_records: int = 30) -> tuple[list[Floats], Floats]:
    """Return predictions_MN1 of members of differing quality, and the truth."""
    rng = np.random.default_rng(seed)
    truth_N1 = (np.arange(n_records) % 3 == 0).astype(np.float64)[:, None]
    noise_M = rng.uniform(0.3, 1.5, n_members)
    return [truth_N1 + noise * rng.standard_normal((n_records, 1)) for noise in noise_M], truth_N1


def area(truth_N1: Floats) -> Any:
    return lambda predicted_N1: float(roc_auc_score(truth_N1[:, 0], predicted_N1[:, 0]))


def squared_error(truth_N1: Floats) -> Any:
    return lambda predicted_N1: float(mean_squared_error(truth_N1, predicted_N1))


def by_hand(
    predicted_MNK: list[Floats], measure: Any, mode: Literal["max", "min"], n_additions: int
) -> tuple[list[int], float]:
    """Caruana's procedure word by word, over lists of members: the ensemble and its value."""
    sign = 1 if mode == "max" else -1

    def value(members: list[int]) -> float:
        return round(sign * measure(np.mean([predicted_MNK[member] for member in members], axis=0)), 12)

    ranked = sorted(range(len(predicted_MNK)), key=lambda member: -value([member]))
    bag = ranked[:1]
    for n in range(2, len(ranked) + 1):
        bag = ranked[:n] if value(ranked[:n]) > value(bag) else bag
    best = bag
    for _ in range(n_additions):
        joins = ranked[0]
        for member in ranked[1:]:
            joins = member if value([*bag, member]) > value([*bag, joins]) else joins
        bag = [*bag, joins]
        best = bag if value(bag) > value(best) else best
    return best, sign * value(best)


@SETTINGS
@given(seed=st.integers(0, 10_000), n_members=st.integers(1, 5), mode=st.sampled_from(["max", "min"]))
def test_the_selection_is_the_procedure_of_the_paper(seed: int, n_members: int, mode: Literal["max", "min"]) -> None:
    predicted_MN1, truth_N1 = problem(seed, n_members)
    measure = area(truth_N1) if mode == "max" else squared_error(truth_N1)
    chosen = select_members(predicted_MN1, measure, mode, n_additions=6)
    members, value = by_hand(predicted_MN1, measure, mode, n_additions=6)
    assert chosen.count_M == tuple(members.count(member) for member in range(n_members))
    assert chosen.value == pytest.approx(value, abs=1e-9)


@SETTINGS
@given(seed=st.integers(0, 10_000), n_members=st.integers(2, 4))
def test_it_lies_between_the_best_member_and_the_best_of_all_ensembles(seed: int, n_members: int) -> None:
    predicted_MN1, truth_N1 = problem(seed, n_members)
    measure, n_additions = area(truth_N1), 3
    chosen = select_members(predicted_MN1, measure, "max", n_additions)
    sizes = range(1, n_members + n_additions + 1)
    every = (bag for size in sizes for bag in itertools.combinations_with_replacement(range(n_members), size))
    best = max(measure(np.mean([predicted_MN1[member] for member in bag], axis=0)) for bag in every)
    assert max(map(measure, predicted_MN1)) <= chosen.value <= best + 1e-12


@pytest.mark.parametrize("seed", range(8))
def test_two_members_get_the_weights_that_least_squares_gives(seed: int) -> None:
    """The error is convex in the weight, so that a way of single steps cannot end beside the least one."""
    predicted_MN1, truth_N1 = problem(seed, 2)
    first, second = predicted_MN1
    optimum = float(((truth_N1 - second) * (first - second)).sum() / ((first - second) ** 2).sum())
    chosen = select_members(predicted_MN1, squared_error(truth_N1), "min", n_additions=100)
    assert chosen.weight_M[0] == pytest.approx(min(1.0, max(0.0, optimum)), abs=0.02)


def test_errors_that_cancel_beat_the_better_member() -> None:
    truth_N1 = np.arange(6.0)[:, None]
    error_N1 = np.array([1, -1, 1, -1, 1, -1.0])[:, None]
    members = [truth_N1 + 3, truth_N1 + error_N1, truth_N1 - error_N1 * 1.5]
    chosen = select_members(members, squared_error(truth_N1), "min")
    assert chosen.count_M == (0, 3, 2)
    assert chosen.value == pytest.approx(0, abs=1e-20)


def test_ties_go_to_the_earlier_member_and_the_smaller_ensemble() -> None:
    predicted_MN1, truth_N1 = problem(1, 1)
    same = [predicted_MN1[0], predicted_MN1[0].copy(), predicted_MN1[0].copy()]
    assert select_members(same, area(truth_N1), "max").count_M == (1, 0, 0)


def test_the_order_of_what_is_given_decides_nothing_but_ties() -> None:
    predicted_MN1, truth_N1 = problem(5, 4)
    forwards = select_members(predicted_MN1, squared_error(truth_N1), "min")
    backwards = select_members(predicted_MN1[::-1], squared_error(truth_N1), "min")
    assert forwards.count_M == backwards.count_M[::-1]


def test_without_a_member_there_is_no_ensemble() -> None:
    with pytest.raises(ValueError, match="chosen among members, but got none"):
        select_members([], lambda predicted_NK: 0.0, "max")


def test_the_network_answers_the_weighted_mean_of_its_members() -> None:
    torch.manual_seed(0)
    members = [nn.Sequential(nn.Flatten(), nn.Linear(6, 2), nn.Sigmoid()) for _ in range(3)]
    ecg_BLT, weights = torch.randn(5, 2, 3), (0.5, 0.3, 0.2)
    with torch.no_grad():
        answer_BK = MeanAnswer(members, weights)(ecg_BLT).double().numpy()
        expected_BK = mean_prediction([member(ecg_BLT).double().numpy() for member in members], weights)
    np.testing.assert_allclose(answer_BK, expected_BK, atol=1e-6)
    np.testing.assert_allclose(
        expected_BK, np.average([m(ecg_BLT).detach() for m in members], axis=0, weights=weights), atol=1e-6
    )
