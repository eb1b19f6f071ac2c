"""What sweeps of HuBERT-ECG say at their end: masked accuracy beside chance, and the licence of published weights."""

from __future__ import annotations

from collections.abc import Sequence

from platform.finished_sweep import Findings, FinishedSweep
from platform.journal import TrialRecord
from platform.page import Cell, Table
from trainables.hubert_ecg_weights import LICENCE, is_published

COLUMNS = ("val/masked_accuracy", "val/unmasked_accuracy", "val/chance", "val/masked_loss", "train/masked_loss")


def conclude_pretraining(sweep: FinishedSweep) -> Findings:
    """Compare the accuracy on masked tokens with that of always naming the most frequent cluster."""
    best = _last_report(sweep.ranked[0])
    accuracy, chance = best["val/masked_accuracy"], best["val/chance"]
    return Findings(
        lines=[f"masked accuracy {accuracy:.4f}, chance {chance:.4f}"],
        tables=[_accuracies(sweep.ranked)],
        notes=_licence_notes(sweep),
    )


def conclude_fine_tuning(sweep: FinishedSweep) -> Findings:
    """State the licence that the published weights put on the model."""
    notes = _licence_notes(sweep)
    return Findings(lines=notes, notes=notes)


def _accuracies(ranked: Sequence[TrialRecord]) -> Table:
    rows = []
    for trial in ranked:
        report = _last_report(trial)
        rows.append([Cell(trial.trial), *(Cell(f"{report[name]:.4f}", report[name]) for name in COLUMNS)])
    return Table(
        "Masked prediction",
        "the last epoch of each trial; chance names each codebook's most frequent cluster",
        ("trial", *COLUMNS),
        rows,
    )


def _last_report(trial: TrialRecord) -> dict[str, float]:
    return dict(trial.reports[max(trial.reports)])


def _licence_notes(sweep: FinishedSweep) -> list[str]:
    published = sorted(
        {str(trial.params["weights"]) for trial in sweep.ranked if is_published(trial.params["weights"])}
    )
    return [f"weights {name} are licensed under {LICENCE}, and so is what is trained from them" for name in published]
