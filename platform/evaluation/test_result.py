"""What a model gave on the test fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TestResult:
    """What the best trial's model gave on the test fold.

    Attributes:
        labels_NK: 0 or 1 for each record and label (one-hot for a multiclass task); true values for a regression.
        probabilities_NK: predicted probabilities, or predicted values for a regression.
        label_names: K names.
        metrics: `auroc` and the like, without the split, in the order to show.
        intervals: metric -> (low, high).
    """

    __test__ = False  # not a test case, whatever its name tells pytest

    labels_NK: NDArray[Any]
    probabilities_NK: NDArray[Any]
    label_names: Sequence[str]
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = (len(self.labels_NK), len(self.label_names))
        if self.labels_NK.shape != expected or self.probabilities_NK.shape != expected:
            shapes = f"{self.labels_NK.shape} and {self.probabilities_NK.shape}"
            raise ValueError(f"labels and probabilities must be (records, labels) = {expected}, but got {shapes}")

    @property
    def is_classification(self) -> bool:
        return bool(np.isin(self.labels_NK, (0, 1)).all())
