"""What a sweep of `method: atml` leaves beside the rest: `results/xx-yy/`, files for small devices, contest scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from platform.evaluation.held_out import PREDICTIONS_FILE
from platform.methods.edge_table import edge_lines
from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.models.score_folder import append_metrics, write_score_folder
from platform.models.trained_model import BEST_FOLDER, read_trained_model
from platform.pages.page import Cell, Table
from platform.specs.quantities import LATENCY
from platform.sweeps.checkpoints import best_of_cells
from platform.sweeps.journal import TrialRecord
from platform.sweeps.study_db import outcome_quantities
from trainables.contest import contest_score, pooled_scores, subject_scores
from trainables.edge_files import EdgeFile, smallest, write_edge_files

COLUMNS: Final = {"val/f1": "F1", "val/f_beta": "F-beta", "val/g_score": "G"}
MISSING: Final = Cell("not measured", float("inf"))


def architecture(params: Mapping[str, Any]) -> str:
    """Return the architecture of a configuration: the cell of the table whose best trial's checkpoint is kept."""
    return str(params["model"])


def conclude(sweep: FinishedSweep) -> Findings:
    """Write the chosen model's files, and score it on the test fold as the contest does."""
    trained = read_trained_model(sweep.folder)
    folder = write_score_folder(sweep.folder, trained) or sweep.result
    files = write_edge_files(
        trained.model, trained.config, sweep.dataset.open(), trained.card.thresholds_K, folder / "edge"
    )
    contest = _contest(sweep, smallest(files), trained.config.threshold_beta)
    if contest:
        append_metrics(folder, contest)
    lines = [f"files for small devices, {folder / 'edge'}/", *edge_lines(files), *_contest_lines(contest)]
    tables = [_architectures(sweep), _edge_table(files)]
    return Findings(lines, [*tables, _contest_table(contest)] if contest else tables)


def _contest(sweep: FinishedSweep, file: EdgeFile, beta: float) -> dict[str, float]:
    """Return the contest's scores of the chosen model on the test fold, from the predictions of its one look.

    Empty where there is no test fold, or the task is not binary.
    """
    if sweep.best_test is None or sweep.dataset.label_set.task != "binary":
        return {}
    kept = np.load(sweep.folder / BEST_FOLDER / PREDICTIONS_FILE)
    called_N, truth_N = kept["predicted_NK"][:, 0] >= kept["thresholds_K"][0], kept["labels_NK"][:, 0] > 0.5
    pooled = pooled_scores(called_N, truth_N, beta)
    by_subject = subject_scores(called_N, truth_N, kept["patient_ids"], beta)
    scores = {f"test/{name}": value for name, value in pooled.items()}
    scores |= {f"test/subject_{name}": value for name, value in by_subject.items() if name != "g_score"}
    scores["test/g_score"] = by_subject["g_score"]
    latency_ms = sweep.ranked[0].measured.get(LATENCY)
    if latency_ms is not None:
        size_kib = file.size_bytes / 1024
        points = contest_score(by_subject["f_beta"], by_subject["g_score"], latency_ms, size_kib)
        scores |= {"latency_ms": latency_ms, "smallest_file_kib": size_kib, "contest_score": points}
    return scores


def _contest_lines(contest: Mapping[str, float]) -> Iterator[str]:
    if contest:
        yield (
            f"by subject on test: F-beta {contest['test/subject_f_beta']:.4f}, G score {contest['test/g_score']:.4f}, "
            f"sensitivity {contest['test/subject_sensitivity']:.4f}, "
            f"specificity {contest['test/subject_specificity']:.4f}"
        )
    if "contest_score" in contest:
        yield (
            f"contest score {contest['contest_score']:.2f} of 80, with {contest['latency_ms']:.3f} ms (this machine), "
            f"{contest['smallest_file_kib']:.1f} KiB: comparable only with the board's latency and the program's size"
        )


# ---------------------------------------------------------------------- tables


def _architectures(sweep: FinishedSweep) -> Table:
    objectives = sweep.spec.objectives
    criterion = objectives[0][0]
    bests = best_of_cells(sweep.ranked, architecture)

    def row(name: str, trial: TrialRecord) -> list[Cell]:
        known = outcome_quantities(trial, objectives)
        return [
            Cell(name),
            Cell(trial.trial),
            Cell(f"{trial.params['lr']:g}", trial.params["lr"]),
            *(_number(known.get(metric), 4) for metric in (criterion, *COLUMNS)),
            _number(known.get("parameters"), 0),
            _number(known["onnx_bytes"] / 1024, 2),
            _number(known.get(LATENCY), 3),
        ]

    return Table(
        "Architectures",
        "the best trial of each architecture that keeps the constraints, on validation; latency where it was measured",
        ("architecture", "trial", "lr", criterion, *COLUMNS.values(), "parameters", "KiB", "ms"),
        [row(name, trial) for name, trial in bests.items()],
    )


def _edge_table(files: tuple[EdgeFile, ...]) -> Table:
    names = list(files[0].scores)
    return Table(
        "Files for small devices",
        f"one record at a time, tried on the validation fold; the smallest is {smallest(files).path.name}",
        ("file", "KiB", "largest difference", *names),
        [
            [
                Cell(file.path.name),
                _number(file.size_bytes / 1024, 2),
                Cell(f"{file.difference:.1e}", file.difference),
                *(_number(file.scores[name], 4) for name in names),
            ]
            for file in files
        ],
    )


def _contest_table(contest: Mapping[str, float]) -> Table:
    return Table(
        "Contest scores",
        "of the chosen model on the test fold, from its one look: over all records, and as means over subjects; F-beta "
        "as the method's threshold_beta has it, G the share of subjects with F-beta over 0.9",
        ("score", "value"),
        [[Cell(name), _number(value, 4)] for name, value in contest.items()],
    )


def _number(value: float | None, digits: int) -> Cell:
    return MISSING if value is None else Cell(f"{value:,.{digits}f}", value)
