"""Which model a sweep comes out with: the front's latencies are measured, and the targets choose among its models.

With targets it is the smallest ONNX file of those that meet all, or else the nearest: the least sum of misses, each as
a share of its bound. Without, it is the best by the first objective. Latency is measured when no trial runs any more,
once a trial, and only of models on the front: it bounds the choice, and no proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from platform.methods.outcomes import METHOD_OUTCOMES
from platform.models.latency import latency_ms
from platform.models.trained_model import TRIALS_FOLDER, read_trained_model
from platform.pages.page import Cell, Table
from platform.pages.units import format_bytes
from platform.specs.quantities import LATENCY
from platform.specs.spec import Spec
from platform.specs.targets import Target, are_met, miss_lines, relative_miss
from platform.sweeps.checkpoints import best_of_cells, rank
from platform.sweeps.journal import Journal, SweepRecord, TrialRecord
from platform.sweeps.pareto import Axes, front_axes, front_of
from platform.sweeps.study_db import Objectives, outcome_quantities
from trainables.tune_trial import BEST_FILE

Measure = Callable[[TrialRecord], float]
"""Returns the latency (ms) of a trial's model."""


@dataclass(frozen=True)
class Choice:
    """The chosen trial, and the front that it was chosen from, best first by the first objective.

    Attributes:
        targets: what the chosen model was to meet; empty where the first objective alone decides.
    """

    chosen: TrialRecord
    front: tuple[TrialRecord, ...]
    axes: Axes
    objectives: Objectives
    targets: tuple[Target, ...]

    @property
    def is_met(self) -> bool:
        """Whether the chosen model meets all targets."""
        return are_met(self.targets, self.quantities(self.chosen))

    def quantities(self, trial: TrialRecord) -> Mapping[str, float]:
        return outcome_quantities(trial, self.objectives)

    def lines(self) -> Iterator[str]:
        """Yield what to say of it at the end of a sweep."""
        names = ", ".join(name for name, _ in self.axes)
        yield f"front of {names}: {len(self.front)} model{'' if len(self.front) == 1 else 's'}"
        for trial in self.front:
            cells = zip(self._names, self._cells(trial), strict=True)
            yield f"  {trial.trial}  " + "  ".join(f"{name} {cell}" for name, cell in cells)
        if self.targets:
            yield self._verdict
            yield from (f"  {line}" for line in miss_lines(self.targets, self.quantities(self.chosen)))

    def table(self) -> Table:
        """Return the front as a section of the report."""
        rows = [[Cell(trial.trial), *self._numbers(trial), *self._misses(trial)] for trial in self.front]
        columns = ("trial", *self._names, *(target.text for target in self.targets))
        caption = "no other model is as good in every axis; latency: onnxruntime, one thread, batch 1, median"
        return Table("Models of the front", f"{caption}. {self._verdict}".removesuffix(". "), columns, rows)

    @property
    def _verdict(self) -> str:
        if not self.targets:
            return ""
        if self.is_met:
            return f"chosen: {self.chosen.trial}, the smallest that meets every target"
        return f"chosen: {self.chosen.trial}; no model meets every target, and it is the nearest"

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self.axes]

    def _cells(self, trial: TrialRecord) -> list[str]:
        quantities = self.quantities(trial)
        return [_text(name, quantities[name]) if name in quantities else "" for name in self._names]

    def _numbers(self, trial: TrialRecord) -> list[Cell]:
        quantities = self.quantities(trial)
        cells = zip(self._names, self._cells(trial), strict=True)
        return [Cell(text, quantities.get(name)) for name, text in cells]

    def _misses(self, trial: TrialRecord) -> Iterator[Cell]:
        for target in self.targets:
            miss = target.miss(self.quantities(trial))
            yield Cell(f"misses by {miss:.4g}" if miss else "met", miss)


def _text(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return format_bytes(value)
    return f"{value:.3f}" if name == LATENCY else f"{value:.4g}"


def choose(
    spec: Spec,
    folder: Path,
    record: SweepRecord,
    journal: Journal,
    measure: Measure | None = None,
) -> Choice | None:
    """Choose among the trials that keep the constraints and whose checkpoint was kept; None where there is none.

    The best of every cell of the method's own table is measured too, though it may be off the front.

    Args:
        folder: the sweep's.
        measure: measures a model's latency; by default with onnxruntime in this process.
    """
    objectives = spec.objectives
    axes, measure, own = front_axes(spec), measure or _by_onnxruntime(folder), METHOD_OUTCOMES.get(spec.method)
    while True:  # a bound on latency may take models off the front, and so bring others onto it
        candidates = [t for t in rank(record, objectives) if (folder / TRIALS_FOLDER / t.trial / BEST_FILE).exists()]
        if not candidates:
            return None
        front = front_of(candidates, axes, objectives) or candidates[:1]  # where none knows the numbers of all axes
        bests = [] if own is None or own.cell is None else best_of_cells(candidates, own.cell).values()
        wanted = {trial.trial: trial for trial in [*front, *bests]}
        unmeasured = [trial for trial in wanted.values() if LATENCY not in trial.measured]
        if not unmeasured:
            break
        for trial in unmeasured:
            _write(spec, record, journal, trial, measure(trial))
    full_axes = [*axes, (LATENCY, "min")]
    front = front_of(front, full_axes, objectives) or front
    targets = spec.choosing_targets
    return Choice(_pick(front, objectives, targets), tuple(front), full_axes, objectives, targets)


def _by_onnxruntime(folder: Path) -> Measure:
    return lambda trial: latency_ms(read_trained_model(folder, trial.trial))


def _write(spec: Spec, record: SweepRecord, journal: Journal, trial: TrialRecord, latency: float) -> None:
    quantities = {LATENCY: latency}
    excess = {each.text: each.excess(quantities) for each in spec.parsed_constraints if each.quantity == LATENCY}
    record.apply(journal.append("measured", trial.trial, quantities=quantities, constraints=excess))


def _pick(front: list[TrialRecord], objectives: Objectives, targets: tuple[Target, ...]) -> TrialRecord:
    """Return the first of the front; with targets the smallest that meets them, or the nearest."""
    if not targets:
        return front[0]

    def cost(trial: TrialRecord) -> tuple[float, float]:
        quantities = outcome_quantities(trial, objectives)
        return relative_miss(targets, quantities), quantities.get("onnx_bytes", 0.0)

    return min(front, key=cost)
