"""The report of a chain: what each stage has found, what it was given, and what all of them cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from platform.chains.stages import Chain
from platform.models.artefacts import StageSpec
from platform.pages.page import Card, render_page
from platform.pages.units import format_duration
from platform.specs.spec import Spec
from platform.specs.step import StepSpec
from platform.sweeps.journal import SweepRecord, read_events, replay
from trainables.checkpoint import write_whole

REPORT_NAME = "report.html"
HASH_LENGTH = 12


@dataclass(frozen=True)
class StageRow:
    """A stage's line."""

    name: str
    kind: str
    state: str
    headline: str
    trials: int
    epochs: int
    time: str
    link: str

    @property
    def outcome(self) -> str:
        """The first number on test, which is of the search's own metric where test has it; else the last one."""
        numbers = self.headline.split(", ")
        return next((each for each in numbers if each.startswith("test/")), numbers[-1])


def write_chain_report(folder: Path, chain: Chain, command: str) -> None:
    """Write `report.html` into the chain's folder; a reader sees the old file or the new one."""
    html = render_chain_report(folder, chain, command)
    write_whole(folder / REPORT_NAME, lambda path: path.write_text(html, encoding="utf-8"))


def render_chain_report(folder: Path, chain: Chain, command: str) -> str:
    """Return the page as HTML."""
    records = {name: replay(read_events(folder / name)) for name in chain.previews}
    rows = [_row(folder, name, spec, records[name]) for name, spec in chain.previews.items()]
    return render_page(
        "chains/report.html.jinja",
        title=folder.name,
        subtitle=f"a chain of {len(rows)} stages",
        header={"stages": ", ".join(chain.previews), "experiment": _experiment(chain)},
        command=command,
        cards=list(_cards(rows, records)),
        stages=rows,
        inputs=[line for name, record in records.items() for line in _inputs(name, record)],
        spec_text=(folder / "spec.yaml").read_text(encoding="utf-8"),
    )


def _experiment(chain: Chain) -> str:
    return next(iter(chain.previews.values())).tracking.experiment or ""


def _row(folder: Path, name: str, spec: StageSpec, record: SweepRecord) -> StageRow:
    link = f"{name}/{REPORT_NAME}" if (folder / name / REPORT_NAME).exists() else ""
    time = format_duration(_elapsed_s(record)) if record.sessions else ""
    kind = f"data step {spec.step}" if isinstance(spec, StepSpec) else _kind(spec)
    headline = ", ".join(_headline(spec, record))
    return StageRow(name, kind, _state(record), headline, len(record.trials), record.epochs, time, link)


def _kind(spec: Spec) -> str:
    return f"{'sweep' if spec.space.parameters else 'training run'} of {spec.method}"


def _state(record: SweepRecord) -> str:
    if not record.opened:
        return "not begun"
    return "done" if record.is_done else "unfinished"


def _headline(spec: StageSpec, record: SweepRecord) -> Iterator[str]:
    if not record.is_done:
        return
    metrics = record.closed[-1].body.get("metrics", {})
    yield from (
        f"{name.removeprefix('best/')} {value:.4f}" for name, value in metrics.items() if name.startswith("best/")
    )
    looks = [event for event in record.tested if "metrics" in event.body]
    if looks and isinstance(spec, Spec):
        own = spec.search.objectives[0].metric.rpartition("/")[2]
        shown = [name for name in dict.fromkeys((own, "auroc", "r2")) if name in looks[-1].body["metrics"]]
        for name in shown[:2]:
            low_high = looks[-1].body["intervals"].get(name)
            interval = f" ({low_high[0]:.4f} to {low_high[1]:.4f})" if low_high else ""
            yield f"test/{name} {looks[-1].body['metrics'][name]:.4f}{interval}"


def _elapsed_s(record: SweepRecord) -> float:
    return sum(end - start for start, end in record.sessions)


def _cards(rows: list[StageRow], records: dict[str, SweepRecord]) -> Iterator[Card]:
    done = [row for row in rows if row.state == "done"]
    yield Card("stages", f"{len(done)} of {len(rows)}", "done")
    if done:
        yield Card("last outcome", done[-1].outcome or "done", done[-1].name)
    trials, epochs = sum(row.trials for row in rows), sum(row.epochs for row in rows)
    yield Card("cost", format_duration(sum(map(_elapsed_s, records.values()))), f"{trials:,} trials, {epochs:,} epochs")
    looks = sum(len(record.tested) for record in records.values())
    yield Card("looks at test folds", str(looks), "of all stages together")


def _inputs(name: str, record: SweepRecord) -> Iterator[tuple[str, str, str]]:
    spec = record.opened[-1].body["spec"] if record.opened else {}
    for key, text in spec.items():
        if key.startswith("inputs."):
            artefact, _, digest = text.partition(" sha256:")
            yield name, key.removeprefix("inputs."), f"{artefact} {digest[:HASH_LENGTH]}"
