"""What an ensemble has brought, and what it costs: in the lines that end a sweep, and in the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from platform.evaluation.test_result import TestResult
from platform.models.ensemble_card import EnsembleCard
from platform.pages.page import Cell, Table
from platform.pages.units import format_bytes
from trainables.paired_bootstrap import Difference

TOO_LARGE = "too large for an ONNX file"


@dataclass(frozen=True)
class EnsembleResult:
    """An ensemble beside the best trial of its sweep.

    Attributes:
        best: the best trial's test; None without a test fold.
        test: the ensemble's.
        difference: of the test metric, the ensemble's - the best trial's; None where nothing was compared.
    """

    card: EnsembleCard
    best: TestResult | None = None
    test: TestResult | None = None
    difference: Difference | None = None

    @property
    def name(self) -> str:
        """The metric by which members were chosen, without its split."""
        return self.card.metric.removeprefix("val/")

    def lines(self) -> list[str]:
        """Return the lines that end a sweep's output."""
        card = self.card
        if card.is_best_alone:
            return [f"ensemble: of {len(card.candidates)} candidates the best trial alone is chosen; nothing is gained"]
        members = ", ".join(f"{trial} {weight:.2f}" for trial, weight in card.weights.items())
        lines = [f"ensemble of {members}: {card.metric} {card.val[self.name]:.4f}, best trial {card.best_val:.4f}"]
        if self.best is not None and self.test is not None and self.name in self.test.metrics:
            lines.append(f"  test/{self.name} {self.test.metrics[self.name]:.4f}, {self._against_best(self.best)}")
        lines.append("  cost: " + ", ".join(f"{name} {ours} ({times})" for name, _, ours, times in self._cost_rows()))
        if card.onnx_difference is None:
            return [*lines, f"  not exported: {TOO_LARGE}"]
        return [*lines, f"  ONNX against PyTorch at batches 1 and 5: largest difference {card.onnx_difference:.1e}"]

    def table(self) -> Table:
        """Return the section of the report."""
        card = self.card
        members = ", ".join(f"{trial} {weight:.3f}" for trial, weight in card.weights.items())
        caption = (
            f"greedy selection by {card.metric} on validation among {len(card.candidates)} trials: {members}; ONNX "
            "sizes and times are of files that take mV, by onnxruntime with one thread, a record at a time"
        )
        val = self._row(card.metric, card.best_val, card.val[self.name])
        rows = (val, *self._test_rows(), *self._cost_rows())
        cells = [[Cell(text) for text in row] for row in rows]
        return Table("Ensemble", caption, ("", "best trial", "ensemble", "difference"), cells)

    def _test_rows(self) -> Iterator[tuple[str, ...]]:
        if self.best is None or self.test is None:
            return
        for name, value in self.best.metrics.items():  # the same ones: which there are depends on the labels
            row = self._row(f"test/{name}", value, self.test.metrics[name])
            yield (*row[:3], _interval(self.difference)) if name == self.name and self.difference is not None else row

    def _against_best(self, best: TestResult) -> str:
        value = f"best trial {best.metrics[self.name]:.4f}"
        return value if self.difference is None else f"{value}: difference {_interval(self.difference)}"

    def _row(self, name: str, best: float, ensemble: float) -> tuple[str, ...]:
        return (name, f"{best:.4f}", f"{ensemble:.4f}", f"{ensemble - best:+.4f}")

    def _cost_rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield (what, of the best trial, of the ensemble, how many times as much)."""
        best, ours = self.card.best_cost, self.card.cost
        yield "members", str(best.members), str(ours.members), _times(best.members, ours.members)
        times = _times(best.parameters, ours.parameters)
        yield "parameters", f"{best.parameters:,}", f"{ours.parameters:,}", times
        times = _times(best.onnx_bytes, ours.onnx_bytes)
        yield "ONNX", _bytes(best.onnx_bytes), _bytes(ours.onnx_bytes), times
        times = _times(best.ms_a_record, ours.ms_a_record)
        yield "ms a record", _ms(best.ms_a_record), _ms(ours.ms_a_record), times


def _interval(difference: Difference) -> str:
    return f"{difference.value:+.4f} (95 % interval {difference.low:+.4f} to {difference.high:+.4f})"


def _times(best: float | None, ours: float | None) -> str:
    return "" if best is None or ours is None else f"{ours / best:.1f} x"


def _bytes(size: int | None) -> str:
    return TOO_LARGE if size is None else format_bytes(size)


def _ms(duration_ms: float | None) -> str:
    return "" if duration_ms is None else f"{duration_ms:.2f}"
