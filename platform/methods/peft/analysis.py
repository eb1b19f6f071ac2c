"""What follows from the numbers of a PEFT sweep, in sentences, and whether its splits may leak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from data.dataset import Split
from data.near_duplicates import MIN_CORRELATION, near_duplicates
from platform.methods.finished_sweep import FinishedSweep
from platform.methods.peft.cells import Cell, best_by_method, compared
from platform.pages.units import format_bytes
from trainables.paired_bootstrap import Difference
from trainables.peft_method import ADAPTERS
from trainables.tuning.selections import SELECTIONS

MOST_MULTIPLICATIONS = 2e12  # half a minute of two cores
MOST_VALUES = 2e8  # of a split: 0.8 GB


# ------------------------------------------------------------------ leaks


@dataclass(frozen=True)
class Leak:
    """What is known of records that may be on both sides of a split.

    Attributes:
        n_alike: split -> how many of its records are nearly the same as a training record; absent: not counted.
    """

    patients_known: bool
    n_alike: Mapping[str, int] = field(default_factory=dict)
    n_records: Mapping[str, int] = field(default_factory=dict)

    def sentences(self) -> Iterator[str]:
        if self.patients_known:
            yield "Patients are known, and no patient is in two splits."
        else:
            yield (
                "**Patients are not known** (df_segment2.csv has no user ids), so segments of one person can lie in "
                "training and test: a random split can leak, and the numbers may be too good for new persons."
            )
        for split, n_records in self.n_records.items():
            if split in self.n_alike:
                yield (
                    f"Near-duplicates: {self.n_alike[split]:,} of {n_records:,} {split} records correlate by "
                    f"{MIN_CORRELATION} or more, timestep by timestep, with a training record."
                )
            else:
                yield f"Near-duplicates of the {n_records:,} {split} records are not counted: it would take too long."


def find_leak(sweep: FinishedSweep) -> Leak:
    """Count the near-duplicates of training records among validation and test records."""
    manifest = sweep.description.manifest
    assert manifest is not None
    dataset = sweep.dataset.open()
    held = {"validation": dataset.val, **({"test": sweep.held_out.split} if sweep.held_out else {})}
    n_values = len(dataset.signal.lead_names) * dataset.signal.n_timesteps
    n_alike = {}
    for name, split in held.items():
        sizes = dataset.train.n_records, split.n_records
        if max(sizes) * n_values <= MOST_VALUES and sizes[0] * sizes[1] * n_values <= MOST_MULTIPLICATIONS:
            n_alike[name] = int(near_duplicates(_rows(split), _rows(dataset.train)).sum())
    return Leak(manifest.patients_known, n_alike, {name: split.n_records for name, split in held.items()})


def _rows(split: Split) -> NDArray[np.float32]:
    return np.concatenate([batch.ecg_BLT.reshape(len(batch.ecg_BLT), -1) for batch in split.batches(1024)])


# ------------------------------------------------------------------ findings


def ablation_rows(sweep: FinishedSweep, cells: Sequence[Cell]) -> list[list[str]]:
    """Return a row for each backbone and method that has both normalisations."""
    rows = []
    for (backbone, tuning), by_normalisation in _both_normalisations(cells).items():
        segment, whole = by_normalisation["segment"], by_normalisation["global"]
        rows.append([backbone, tuning, str(segment.score), str(whole.score), _text(compared(sweep, segment, whole))])
    return rows


def _both_normalisations(cells: Sequence[Cell]) -> dict[tuple[str, str], dict[str, Cell]]:
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        found.setdefault((cell.backbone, cell.tuning), {})[cell.config.normalisation] = cell
    return {key: cells for key, cells in found.items() if {"segment", "global"} <= cells.keys()}


def findings(sweep: FinishedSweep, cells: Sequence[Cell]) -> Iterator[str]:
    """Yield what the numbers say, and how sure they are."""
    shown = best_by_method(cells)
    yield _best(shown)
    for backbone in dict.fromkeys(cell.backbone for cell in shown):
        own = {cell.tuning: cell for cell in shown if cell.backbone == backbone}
        yield from _of_backbone(sweep, backbone, own)
    yield _cost(shown)
    yield from _normalisation(cells)


def _best(shown: Sequence[Cell]) -> str:
    best = max(shown, key=lambda cell: cell.score.value)
    return (
        f"The highest {best.headline} is {best.score}, of {best.backbone} with {best.tuning}, which trains "
        f"{best.n_trainable:,} of {best.n_parameters:,} parameters ({best.n_trainable / best.n_parameters:.2%}). It is "
        f"the best of {len(shown)} cells, so its own interval is optimistic."
    )


def _of_backbone(sweep: FinishedSweep, backbone: str, own: Mapping[str, Cell]) -> Iterator[str]:
    added = [cell for name, cell in own.items() if name not in SELECTIONS]
    if not added:
        return
    best = max(added, key=lambda cell: cell.score.value)
    for reference, words in (("full", "full fine-tuning"), ("linear_probe", "a linear probe")):
        if reference in own:
            other = own[reference]
            yield (
                f"{backbone}: {best.tuning} against {words}: {best.headline} {best.score.value:.3f} and "
                f"{other.score.value:.3f} with {best.n_trainable:,} and {other.n_trainable:,} trained parameters; "
                f"{_judged(compared(sweep, other, best))}."
            )
    bottlenecks = [cell for cell in added if cell.tuning in ADAPTERS]
    others = [cell for cell in added if cell.tuning not in ADAPTERS]
    if bottlenecks and others:
        first, second = (max(group, key=lambda cell: cell.score.value) for group in (others, bottlenecks))
        yield (
            f"{backbone}: adapters ({second.tuning}) against low-rank and other updates ({first.tuning}): "
            f"{second.score.value:.3f} and {first.score.value:.3f}; {_judged(compared(sweep, first, second))}."
        )


def _judged(difference: Difference | None) -> str:
    """Say whether a paired difference is more than chance."""
    if difference is None:
        return "the difference was not tested"
    verdict = "no more than chance" if difference.low <= 0 <= difference.high else "more than chance"
    return f"paired difference {_text(difference)}, {verdict}"


def _text(difference: Difference | None) -> str:
    if difference is None:
        return "not tested"
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _cost(shown: Sequence[Cell]) -> str:
    slowest, quickest = (pick(shown, key=lambda cell: cell.epoch_s) for pick in (max, min))
    largest, smallest = (pick(shown, key=lambda cell: cell.saved_bytes) for pick in (max, min))
    return (
        f"An epoch takes {quickest.epoch_s:.2f} s ({quickest.backbone}, {quickest.tuning}) to {slowest.epoch_s:.2f} s "
        f"({slowest.backbone}, {slowest.tuning}); what is saved takes {format_bytes(smallest.saved_bytes)} "
        f"({smallest.tuning}) to {format_bytes(largest.saved_bytes)} ({largest.tuning})."
    )


def _normalisation(cells: Sequence[Cell]) -> Iterator[str]:
    pairs = _both_normalisations(cells).values()
    if not pairs:
        return
    differences = [pair["global"].score.value - pair["segment"].score.value for pair in pairs]
    better = sum(difference > 0 for difference in differences)
    yield (
        f"Global instead of segment normalisation changes {cells[0].headline} by {np.mean(differences):+.3f} on "
        f"average over {len(differences)} pairs of cells; it is better in {better} of them. The cells of a "
        "pair differ in other hyperparameters too."
    )
