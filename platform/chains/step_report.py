"""The report of a data step: its measures at every point of its grid, as pictures (an elbow, say) and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from platform.chains.step_figures import StepPoint, measure_pictures
from platform.pages.page import Card, Cell, Table, render_page
from platform.pages.units import format_duration
from platform.sweeps.journal import SweepRecord, TrialRecord, read_events, replay
from trainables.checkpoint import write_whole

REPORT_NAME = "report.html"


def write_step_report(folder: Path) -> None:
    """Write `report.html` into the folder of a step that has run, from its journal; the old file or the new one."""
    html = render_step_report(folder)
    write_whole(folder / REPORT_NAME, lambda path: path.write_text(html, encoding="utf-8"))


def render_step_report(folder: Path) -> str:
    """Return the page as HTML."""
    record = replay(list(read_events(folder)))
    done = [trial for trial in record.trials.values() if trial.state == "COMPLETED"]
    return render_page(
        "chains/step_report.html.jinja",
        title=folder.name,
        subtitle=f"a data step at {len(record.trials)} points",
        header={"fingerprint of the store": record.opened[-1].body["fingerprint"]},
        command=record.opened[-1].body["command"],
        cards=_cards(record, done),
        pictures=measure_pictures([StepPoint(_searched(trial, done), _last(trial)) for trial in done]),
        points=_table(done),
        spec_text=(folder / "spec.yaml").read_text(encoding="utf-8"),
    )


def _cards(record: SweepRecord, done: Sequence[TrialRecord]) -> list[Card]:
    elapsed_s = sum(end - start for start, end in record.sessions)
    return [
        Card("points", f"{len(done)} of {len(record.trials)}", "completed"),
        Card("time", format_duration(elapsed_s), ""),
    ]


def _last(trial: TrialRecord) -> dict[str, float]:
    return dict(trial.reports[max(trial.reports)])


def _searched(trial: TrialRecord, trials: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return the parameters in which the points differ; paths by their last part."""
    names = [name for name in trial.params if len({str(each.params[name]) for each in trials}) > 1]
    return {name: _shown(trial.params[name], name, trials) for name in names}


def _shown(value: Any, name: str, trials: Sequence[TrialRecord]) -> Any:
    """Return a value; of several paths what tells them apart, from the first part that differs."""
    if not isinstance(value, str) or "/" not in value:
        return value
    parts = [Path(str(trial.params[name])).parts for trial in trials]
    differ = next(place for place in zip(*parts, strict=False) if len(set(place)) > 1)
    place = next(index for index, each in enumerate(zip(*parts, strict=False)) if each == differ)
    return Path(value).parts[place]


def _table(done: Sequence[TrialRecord]) -> Table:
    names = list(_searched(done[0], done)) if done else []
    measures = sorted(_last(done[0])) if done else []
    rows = []
    for trial in done:
        searched, last = _searched(trial, done), _last(trial)
        rows.append(
            [Cell(trial.trial)]
            + [_cell(searched[name]) for name in names]
            + [Cell(f"{last[name]:.4g}", last[name]) for name in measures]
        )
    return Table("Points", "a click on a column sorts", ("point", *names, *measures), rows)


def _cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(str(value), float(value) if is_number else None)
