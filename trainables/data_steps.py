"""The data steps that a stage of a chain may name: one line each."""

from __future__ import annotations

from trainables.data_step import DataStep

_STEPS: tuple[DataStep, ...] = ()

DATA_STEPS: dict[str, DataStep] = {step.name: step for step in _STEPS}
