"""How much of a fused gradient is first-order: its coefficient c, fixed, by time, or by measured agreement.

Agreement: a first-order gradient g of a few records predicts slopes g . z_q of the loss along q random directions z_q;
those of the whole batch's loss, p_q, were measured.

- cosine: for Gaussian z, E[sign(p) (g . z)] = sqrt(2 / pi) |g| rho, with rho the cosine between g and the whole batch's
  gradient. So sqrt(pi / 2) sign(p) (g . z) / |g| has the mean rho, whatever the number of parameters.
- variance: the share of the slopes' variance over the q directions that g explains, 1 - Var(p - g . z) / Var(p): it
  falls with a wrong length too, not only with a wrong direction.

A step's measurement is noisy, so numerator and denominator are averaged over steps (exponentially, BETA). Agreement a
in [0, 1] gives c = coef + (1 - coef) a: where the few records tell as much as the batch, they are followed alone; where
they say nothing of it, the zeroth-order part has all of its share 1 - coef.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["constant", "time", "cosine", "variance"]

BETA = 0.95  # weight of the past steps: about 20 of them
EARLY_SHARE, EARLY_COEF = 0.2, 0.99  # rule `time`: the original's first stretch


@dataclass
class FusionCoefficient:
    """The coefficient of each step, by rule.

    Attributes:
        explained: running mean of what the gradient explains of the slopes.
        total: running mean of what there is to explain.
    """

    coef: float
    rule: Rule
    n_steps: int
    explained: float = 0.0
    total: float = 0.0

    @property
    def measures(self) -> bool:
        """Whether the rule wants `measure` to be called before `at`."""
        return self.rule in ("cosine", "variance")

    def measure(self, p_Q: Tensor, predicted_Q: Tensor, norm: Tensor) -> None:
        """Take in one step's slopes, those that the first-order gradient predicts, and that gradient's norm.

        With masked directions the norm is that of the masked gradient.
        """
        if self.rule == "cosine":
            explained = math.sqrt(math.pi / 2) * (p_Q.sign() * predicted_Q).mean()
            total = norm
        else:
            total = p_Q.var()
            explained = total - (p_Q - predicted_Q).var()
        explained, total = torch.stack([explained, total]).tolist()
        self.explained = BETA * self.explained + (1 - BETA) * explained
        self.total = BETA * self.total + (1 - BETA) * total

    @property
    def agreement(self) -> float:
        """What the measurements up to now say, in [0, 1]; 0 before the first."""
        return min(1.0, max(0.0, self.explained / self.total)) if self.total > 0 else 0.0

    def at(self, number: int) -> float:
        """Return c of step `number`, counted from 0 over the whole training."""
        if self.rule == "time" and number < EARLY_SHARE * self.n_steps:
            return EARLY_COEF
        return self.coef + (1 - self.coef) * self.agreement if self.measures else self.coef

    def state(self) -> dict[str, float]:
        return {"explained": self.explained, "total": self.total}

    def load(self, state: dict[str, float]) -> None:
        self.explained, self.total = state["explained"], state["total"]


def fuse(first: Tensor, zeroth: Tensor, c: float) -> Tensor:
    """Return c g_fo + (1 - c) |g_fo| g_zo / |g_zo| of one parameter (H-Tuning: Zhou et al. 2025, PMLR 267:79548)."""
    norm: Tensor = torch.linalg.vector_norm(zeroth)
    direction = zeroth / norm.clamp(min=torch.finfo(zeroth.dtype).tiny)  # 0 stays 0
    fused: Tensor = c * first + (1 - c) * torch.linalg.vector_norm(first) * direction
    return fused
