"""Which epochs may be a trial's best."""

from __future__ import annotations

from trainables.degeneracy import eligible_epochs, is_degenerate_report


def test_a_degenerate_epoch_is_passed_over() -> None:
    reports = {1: {"val/degenerate": 1.0}, 2: {"val/degenerate": 0.0}, 3: {"val/degenerate": 1.0}}
    assert eligible_epochs(reports) == [2]


def test_where_all_are_degenerate_a_best_epoch_is_still_needed() -> None:
    assert eligible_epochs({2: {"val/degenerate": 1.0}, 1: {"val/degenerate": 1.0}}) == [1, 2]


def test_a_method_that_does_not_tell_has_no_degenerate_epochs() -> None:
    assert eligible_epochs({1: {"val/f1": 0.0}}) == [1]
    assert not is_degenerate_report({"val/f1": 0.0})
