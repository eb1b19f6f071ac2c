"""A trial as its method sees it: the only door from a training function to the outside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

State = dict[str, Any]
"""What a checkpoint holds: `model` (a state dict), `thresholds` (of each label, fitted on validation; none for a
regression) and whatever else the method needs to go on.

Only tensors (torch's, or numpy's arrays), numbers, strings, None and dicts, lists and tuples of them.
"""


class TrialStopped(Exception):  # noqa: N818  (an end that is asked for, not an error)
    """Raised by `Trial.report` when the scheduler has stopped the trial; a method lets it pass."""


class Trial(Protocol):
    """One run of a method with one configuration. Methods import neither Ray nor MLflow."""

    @property
    def seed(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        """Tell the sweep the metrics after `epoch` (from 1), and save `state()` as a checkpoint.

        Every rank calls it; only rank 0's metrics and state count.

        Raises:
            TrialStopped: the scheduler wants no further epoch of this trial.
            FloatingPointError: a metric is not finite; the trial ends as FAILED.
        """

    def restore(self) -> State | None:
        """Return the state of the last checkpoint, or None in a fresh trial."""
