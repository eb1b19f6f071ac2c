"""Both stopping rules, epoch by epoch."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.config import TrainConfig
from trainables.early_stopping import EarlyStopping


def stop_epoch(train: list[float], val: list[float], **params: Any) -> int | None:
    """Return the epoch (from 1) after which training stops, or None."""
    stopping = EarlyStopping.from_config(TrainConfig(**params))
    for epoch, losses in enumerate(zip(train, val, strict=True), start=1):
        stopping.end_epoch(*losses)
        if stopping.stopped:
            return epoch
    return None


FLAT = [1.0, 0.9, 0.9, 0.9, 0.9, 0.9]


def test_a_plateau_ends_after_patience_epochs_without_strict_improvement() -> None:
    assert stop_epoch(FLAT, FLAT, early_stopping="plateau", patience=3) == 5


def test_without_a_gap_plateau_and_gap_trains_on() -> None:
    assert stop_epoch(FLAT, FLAT, early_stopping="plateau_and_gap") is None


def test_plateau_and_gap_ends_when_the_gap_opens() -> None:
    train = [1.0, 0.9, 0.9, 0.9, 0.9, 0.88]
    assert stop_epoch(train, FLAT, early_stopping="plateau_and_gap", min_gap=0.01) == 6


def test_no_rule_never_ends() -> None:
    assert stop_epoch([0.0] * 6, FLAT) is None


@pytest.mark.parametrize(("min_delta", "expected"), [(0.0, None), (0.05, 3)])
def test_an_improvement_below_min_delta_does_not_count(min_delta: float, expected: int | None) -> None:
    falling = [1.0, 0.99, 0.98, 0.97]
    assert stop_epoch(falling, falling, early_stopping="plateau", patience=2, min_delta=min_delta) == expected


def test_the_state_carries_on() -> None:
    config = TrainConfig(early_stopping="plateau", patience=2)
    first, second = EarlyStopping.from_config(config), EarlyStopping.from_config(config)
    first.end_epoch(1.0, 1.0)
    first.end_epoch(1.0, 1.0)
    second.load(first.state())
    second.end_epoch(1.0, 1.0)
    assert second.stopped
