"""What a sweep of `method: peft` leaves beside every sweep's: the table backbone x method and a report to hand in."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from platform.methods.finished_sweep import Findings, FinishedSweep
from platform.methods.peft.analysis import find_leak
from platform.methods.peft.cells import Cell, best_by_method, test_cells
from platform.methods.peft.figures import curves, trade_off
from platform.methods.peft.report import CURVES, TRADE_OFF, PeftReport, result_rows, weights_line
from platform.pages.markdown import to_html
from platform.pages.page import Cell as TableCell
from platform.pages.page import Table
from trainables.checkpoint import write_whole

REPORT, PAGE, TABLE = "report.md", "report.html", "backbone_x_method.csv"


def conclude_peft(sweep: FinishedSweep) -> Findings:
    """Test every cell's best trial, a look each, and write report, pictures and table."""
    cells = test_cells(sweep)
    report = PeftReport(sweep, cells, find_leak(sweep))
    metric = sweep.spec.search.objectives[0].metric
    shown = best_by_method(cells)
    pictures = {CURVES: curves(shown, metric), TRADE_OFF: trade_off(shown)}
    text = report.text()
    files = {
        **pictures,
        REPORT: text,
        PAGE: to_html(text, sweep.folder.name, pictures),
        TABLE: _csv(cells),
    }
    for name, content in files.items():
        write_whole(sweep.result / name, partial(Path.write_text, data=content, encoding="utf-8"))
    columns, rows = result_rows(cells)
    caption = f"{weights_line(cells)}; the better normalisation of each, by validation; more in result/{PAGE}"
    return Findings(
        lines=[f"backbone x method: {len(rows)} cells, {sweep.result / PAGE}"],
        tables=[Table("Backbone x method", caption, columns, [[TableCell(text) for text in row] for row in rows])],
        notes=[weights_line(cells), *report.leak.sentences()],
    )


def _csv(cells: Sequence[Cell]) -> str:
    """Return every cell, both normalisations, with the numbers unrounded."""
    metrics = list(dict.fromkeys(name for cell in cells for name in cell.numbers))
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    spread = [f"{name}{end}" for name in metrics for end in ("", " low", " high")]
    writer.writerow(
        ["cell", "trial", *spread, "trainable", "parameters", "saved_bytes", "peak_memory_bytes", "epoch_s"]
    )
    for cell in cells:
        numbers = [value for name in metrics for value in cell.numbers.get(name, (None, None, None))]
        sizes = [cell.n_trainable, cell.n_parameters, cell.saved_bytes, cell.peak_memory_bytes, cell.epoch_s]
        writer.writerow([cell.name, cell.trial.trial, *numbers, *sizes])
    return content.getvalue()
