"""What a method adds to the steps of the shared trainer."""

from __future__ import annotations

from typing import Any, Protocol


class Guidance(Protocol):
    """Called by `trainables.trainer.fit`; every rank has its own, and all must come to the same."""

    def lr_scale(self, name: str) -> float:
        """Return what the learning rate of the parameter `name` is multiplied by."""

    def after_backward(self) -> None:
        """Change the gradients, which are those of the mean loss over the whole batch; clipping comes after it."""

    def after_step(self, step: int, n_steps: int) -> None:
        """Change the parameters after optimiser step `step` (from 1) of `n_steps` in the whole training."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed training needs; as `trainables.trial.State`."""

    def load(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


class NoGuidance:
    """Adds nothing."""

    def lr_scale(self, name: str) -> float:
        return 1.0

    def after_backward(self) -> None:
        pass

    def after_step(self, step: int, n_steps: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: dict[str, Any]) -> None:
        pass
