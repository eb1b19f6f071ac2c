"""Mean, deviation and interval of a number that was measured several times: over seeds, or over folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Spread:
    """A sample's summary.

    Attributes:
        sd: the sample's standard deviation (n - 1).
        low, high: the 95 % interval of the mean by Student's t. Folds share training records, so that theirs is
            narrower than it should be (Bengio and Grandvalet 2004, https://www.jmlr.org/papers/v5/grandvalet04a.html).
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Summarise two values or more.

        Raises:
            ValueError: there are fewer.
        """
        n = len(values)
        if n < 2:
            raise ValueError(f"a deviation needs 2 values at least, but got {n}")
        mean, sd = float(np.mean(values)), float(np.std(values, ddof=1))
        margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * sd / math.sqrt(n)
        return Spread(n, mean, sd, mean - margin, mean + margin)

    @property
    def text(self) -> str:
        return f"{self.mean:.4f} ± {self.sd:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"
