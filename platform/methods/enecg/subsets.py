"""An ensemble with fewer and fewer experts: what each is worth on validation, and what it costs.

N: records, E: experts, K: outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from platform.methods.enecg.runs import Run, Runs
from platform.methods.expert_cost import ExpertCost
from trainables.enecg_answers import SplitAnswers, mean_weights, subset_logits
from trainables.evaluation import assess

TOLERANCE: Final = 0.01  # of the whole ensemble's score, that a cheaper one may be worse


@dataclass(frozen=True)
class Subset:
    """An ensemble of some experts.

    Attributes:
        value: the headline metric on validation.
        ms: the experts' time for one record.
    """

    experts: tuple[str, ...]
    value: float
    ms: float

    @property
    def name(self) -> str:
        return " + ".join(self.experts)

    def to_row(self, metric: str) -> dict[str, float | str]:
        return {"experts": self.name, f"val/{metric}": self.value, "experts_ms": self.ms}

    def sentence(self, whole: Subset, metric: str) -> str:
        """Say that this is the cheapest within the tolerance."""
        return (
            f"cheapest ensemble within {TOLERANCE:.0%} of the whole: {self.name}, {self.ms:.2f} ms a record and "
            f"val/{metric} {self.value:.4f}, against {whole.ms:.2f} ms and {whole.value:.4f}"
        )


def as_good_as(whole: Subset, sign: float) -> float:
    """Return the value that is `TOLERANCE` worse than that of the whole."""
    return whole.value - sign * TOLERANCE * abs(whole.value)


def cheapest(subsets: Sequence[Subset], sign: float) -> Subset:
    """Return the cheapest ensemble as good as the first, the whole; the better of equals."""
    whole = subsets[0]
    least = sign * as_good_as(whole, sign)
    return min(
        (each for each in subsets if each is whole or sign * each.value >= least),
        key=lambda each: (each.ms, -sign * each.value),
    )


def drop_experts(runs: Runs, alone: Sequence[Run], costs: Sequence[ExpertCost]) -> list[Subset]:
    """Drop one expert after another; returns the whole, the smaller ensembles, and every expert alone.

    The one goes without which the best trial's own heads, their weights scaled anew, answer best on validation, and of
    several such the one that has least weight; the ensemble that is left is then trained anew.
    """
    config, val = runs.best.config, runs.dataset.val
    subsets = [_subset(runs, runs.best, range(len(alone)), costs)]
    kept = list(range(len(alone)))
    answers = runs.answers(runs.best, val)
    weight_E = mean_weights(answers).mean(axis=0)
    while len(kept) > 2:
        kept = max(
            ([each for each in kept if each != dropped] for dropped in kept),
            key=lambda rest: (_worth(runs, answers, rest), weight_E[rest].sum()),
        )
        name = "-".join(config.expert_names[each] for each in kept)
        run = runs.train(name, [config.experts[each] for each in kept], config.mixing)
        subsets.append(_subset(runs, run, kept, costs))
    if len(alone) > 1:
        subsets += [_subset(runs, run, [number], costs) for number, run in enumerate(alone)]
    return subsets


def _worth(runs: Runs, answers: Sequence[SplitAnswers], kept: Sequence[int]) -> float:
    """Return the headline of the experts `kept`, the larger the better."""
    config, val = runs.best.config, runs.dataset.val
    logits_NK = subset_logits(answers, kept, config, runs.label_set.task)
    evaluation = assess(logits_NK, val.labels_NK, config, runs.label_set, runs.best.thresholds_K)
    return runs.sign * runs.headline(evaluation)


def _subset(runs: Runs, run: Run, kept: Sequence[int], costs: Sequence[ExpertCost]) -> Subset:
    names = tuple(costs[each].name for each in kept)
    value = runs.headline(runs.evaluate(run, runs.dataset.val))
    return Subset(names, value, sum(costs[each].ms for each in kept))
