"""What pretraining and HuBERT-ECG add to a sweep's end: masked accuracy beside chance, licences of weights."""

from __future__ import annotations

from collections.abc import Sequence

from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.pages.page import Cell, Table
from platform.sweeps.journal import TrialRecord
from trainables.hubert_ecg_weights import LICENCE, is_published

PREDICTION = ("val/masked_accuracy", "val/unmasked_accuracy", "val/chance", "val/masked_loss", "train/masked_loss")
CONTRAST = (
    "val/masked_accuracy", "val/chance", "val/contrastive", "train/contrastive", "val/diversity", "val/cmsc_accuracy",
)  # fmt: skip


def conclude_pretraining(sweep: FinishedSweep) -> Findings:
    """Compare the accuracy on masked tokens with that of always naming the most frequent cluster."""
    return Findings(
        lines=[_beside_chance(sweep)],
        tables=[_table("Masked prediction", "chance names each codebook's most frequent cluster", PREDICTION, sweep)],
        notes=_licence_notes(sweep),
    )


def conclude_contrast(sweep: FinishedSweep) -> Findings:
    """Compare how often masked tokens are told from others with a guess among the codes that differ."""
    remark = "chance guesses among the codes that differ; diversity is 1 - the share of codes in use"
    return Findings(
        lines=[_beside_chance(sweep)],
        tables=[_table("Contrast", remark, CONTRAST, sweep)],
    )


def conclude_fine_tuning(sweep: FinishedSweep) -> Findings:
    """State the licence that the published weights put on the model."""
    notes = _licence_notes(sweep)
    return Findings(lines=notes, notes=notes)


def _beside_chance(sweep: FinishedSweep) -> str:
    best = _last_report(sweep.ranked[0])
    return f"masked accuracy {best['val/masked_accuracy']:.4f}, chance {best['val/chance']:.4f}"


def _table(title: str, remark: str, columns: Sequence[str], sweep: FinishedSweep) -> Table:
    rows = []
    for trial in sweep.ranked:
        report = _last_report(trial)
        rows.append([Cell(trial.trial), *(Cell(f"{report[name]:.4f}", report[name]) for name in columns)])
    return Table(title, f"the last epoch of each trial; {remark}", ("trial", *columns), rows)


def _last_report(trial: TrialRecord) -> dict[str, float]:
    return dict(trial.reports[max(trial.reports)])


def _licence_notes(sweep: FinishedSweep) -> list[str]:
    published = sorted(
        {str(trial.params["weights"]) for trial in sweep.ranked if is_published(trial.params["weights"])}
    )
    return [f"weights {name} are licensed under {LICENCE}, and so is what is trained from them" for name in published]
