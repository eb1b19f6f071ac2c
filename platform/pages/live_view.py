"""The live view of a running sweep: a small table on a terminal, plain lines where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data.printable import printable
from platform.pages.units import format_bytes, format_duration
from platform.specs.quantities import Mode
from platform.sweeps.journal import ENDED, SweepRecord, TrialRecord, TrialState
from platform.sweeps.leaderboard import best_epoch

REDRAW_S = 0.25
LINE_S = 10.0
STYLES = {"RUNNING": "cyan", "COMPLETED": "green", "STOPPED": "yellow", "FAILED": "red"}


@dataclass(frozen=True)
class Budget:
    """What a sweep may cost, as far as it is bounded; `epochs` is the most that all trials together can train."""

    trials: int
    epochs: int
    wall_time_s: float | None = None
    disk_bytes: float | None = None


@dataclass(frozen=True)
class Incumbent:
    """The best value so far."""

    value: float
    trial: str
    epoch: int


class Progress:
    """What the view shows of a record; trials that have ended are counted once.

    Args:
        metric, mode: the objective that the incumbent is best in.
    """

    def __init__(self, metric: str, mode: Mode) -> None:
        self.metric, self.mode = metric, mode
        self._counted: set[str] = set()
        self._best_of_ended: Incumbent | None = None
        self.counts: dict[TrialState, int] = {}
        self.incumbent: Incumbent | None = None
        self.epochs = 0
        self.ended: list[TrialRecord] = []  # since the last `read`

    @property
    def n_ended(self) -> int:
        return len(self._counted)

    def read(self, record: SweepRecord) -> None:
        """Take in a record that has grown since the last call."""
        live = [trial for trial in record.trials.values() if trial.trial not in self._counted]
        self.ended = [trial for trial in live if trial.state in ENDED]
        for trial in self.ended:
            self._counted.add(trial.trial)
            self.counts[trial.state] = self.counts.get(trial.state, 0) + 1
            if trial.state != "FAILED":
                self._best_of_ended = self._better(self._best_of_ended, trial)
        running = [trial for trial in live if trial.state == "RUNNING"]
        self.counts["RUNNING"] = len(running)
        self.incumbent = self._best_of_ended
        for trial in running:
            self.incumbent = self._better(self.incumbent, trial)
        self.epochs = record.epochs

    def _better(self, incumbent: Incumbent | None, trial: TrialRecord) -> Incumbent | None:
        epoch = best_epoch(trial, self.metric, self.mode)
        if epoch is None or not trial.is_feasible:
            return incumbent
        value = trial.reports[epoch][self.metric]
        sign = 1.0 if self.mode == "max" else -1.0
        if incumbent is not None and sign * value <= sign * incumbent.value:
            return incumbent
        return Incumbent(value, trial.trial, epoch)


class LiveView:
    """Shows a sweep's progress until the context ends.

    Args:
        name: the sweep's name.
        budget: what it may cost.
        metric, mode: the objective that the incumbent is best in.
        disk_bytes: measures what the sweep's folder holds; asked at most every ten seconds.
        earlier_s: time that earlier processes have spent on the sweep, for the wall-time budget.
        console: where to draw; standard error by default.
        clock: seconds, monotone.
    """

    def __init__(
        self,
        name: str,
        budget: Budget,
        metric: str,
        mode: Mode,
        disk_bytes: Callable[[], int],
        earlier_s: float = 0.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._budget, self._metric = name, budget, metric
        self._console = console or Console(stderr=True)
        self._clock, self._measure_disk, self._earlier_s = clock, disk_bytes, earlier_s
        self._progress = Progress(metric, mode)
        self._begin_s = self._drawn_s = self._line_s = self._disk_s = clock()
        self._n_ended_before: int | None = None  # by earlier processes: they say nothing about the pace
        self._disk_bytes = 0
        self._record: SweepRecord | None = None
        self._live: Live | None = None
        self._exit = ExitStack()

    def __enter__(self) -> LiveView:
        self._disk_bytes = self._measure_disk()
        if self._console.is_terminal:
            # rich moves what Python prints above the table, but not what loggers hold streams for.
            live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=1, transient=True)
            streams = (sys.stdout, sys.stderr)
            self._live = self._exit.enter_context(live)
            self._exit.enter_context(_moved_log_handlers(streams))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._record is not None:
            self._progress.read(self._record)
        self._exit.close()
        if self._live is None:
            self._print_ended()
        self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def update(self, record: SweepRecord) -> None:
        """Show `record`; cheap enough for every event, since it draws at most four times a second."""
        self._record = record
        now_s = self._clock()
        if self._n_ended_before is None:
            self._progress.read(record)
            self._n_ended_before, self._progress.ended = self._progress.n_ended, []
        if now_s - self._drawn_s < REDRAW_S:
            return
        self._drawn_s = now_s
        self._progress.read(record)
        if now_s - self._disk_s >= LINE_S:
            self._disk_s, self._disk_bytes = now_s, self._measure_disk()
        if self._live is not None:
            self._live.refresh()
        else:
            self._print_lines(now_s)

    def time_left_s(self) -> float | None:
        """Estimate the seconds left from the pace of this process and the wall-time budget; None without either."""
        elapsed_s = self._clock() - self._begin_s
        bounds = []
        if self._budget.wall_time_s is not None:
            bounds.append(self._budget.wall_time_s - self._earlier_s - elapsed_s)
        n_here = self._progress.n_ended - (self._n_ended_before or 0)
        if n_here > 0:
            bounds.append((self._budget.trials - self._progress.n_ended) * elapsed_s / n_here)
        return max(0.0, min(bounds)) if bounds else None

    # ------------------------------------------------------------------ plain lines

    def _print_lines(self, now_s: float) -> None:
        self._print_ended()
        if now_s - self._line_s >= LINE_S:
            self._line_s = now_s
            self._console.print(self._line(), markup=False, highlight=False, soft_wrap=True)

    def _print_ended(self) -> None:
        for trial in self._progress.ended:
            self._console.print(self._ended_line(trial), markup=False, highlight=False, soft_wrap=True)
        self._progress.ended = []

    def _ended_line(self, trial: TrialRecord) -> str:
        epoch = best_epoch(trial, self._metric, self._progress.mode)
        if trial.state == "FAILED":
            last = trial.error.strip().splitlines()[-1] if trial.error else "no traceback"
            return f"{trial.trial} FAILED: {printable(last)}"
        assert epoch is not None, "a trial that did not fail has reported"
        value = trial.reports[epoch][self._metric]
        took = f" in {format_duration(trial.duration_s)}" if trial.duration_s is not None else ""
        best = f"{self._metric} {value:.4f} (epoch {epoch})"
        return f"{trial.trial} {trial.state} after {trial.epochs} epochs{took}: {best}"

    def _line(self) -> str:
        return f"{self._name}: " + ", ".join(f"{key} {value}" for key, value in self._rows())

    # ------------------------------------------------------------------ the table

    def _rows(self) -> list[tuple[str, str]]:
        progress, budget = self._progress, self._budget
        best, left_s = progress.incumbent, self.time_left_s()
        elapsed = format_duration(self._clock() - self._begin_s)
        disk = format_bytes(self._disk_bytes)
        if budget.disk_bytes is not None:
            disk += f" of {format_bytes(budget.disk_bytes)}"
        return [
            ("trials", f"{progress.n_ended} of {budget.trials}"),
            *((state.lower(), str(progress.counts.get(state, 0))) for state in ("RUNNING", *ENDED)),
            ("best", f"{self._metric} {best.value:.4f} ({best.trial}, epoch {best.epoch})" if best else "none yet"),
            ("epochs", f"{progress.epochs} of at most {budget.epochs}"),
            ("elapsed", elapsed),
            ("left", f"about {format_duration(left_s)}" if left_s is not None else "unknown"),
            ("disk", disk),
        ]

    def _draw(self) -> Panel:
        rows = dict(self._rows())
        states = Text("  ").join(
            Text(f"{rows[state.lower()]} {state.lower()}", style=style) for state, style in STYLES.items()
        )
        bar = ProgressBar(total=self._budget.trials, completed=self._progress.n_ended, width=30)
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column()
        table.add_row("trials", bar)
        table.add_row("", Text(f"{rows['trials']}   ").append_text(states))
        for key in ("best", "epochs", "elapsed", "left", "disk"):
            table.add_row(key, Text(rows[key], style="bold" if key == "best" else ""))
        return Panel(table, title=Text(self._name), title_align="left", border_style="dim", expand=False)


@contextmanager
def _moved_log_handlers(streams: tuple[object, object]) -> Iterator[None]:
    """Let log handlers that write to `streams` (the former standard ones) write above the live table instead."""
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers}
    moved = [
        (handler, handler.stream)
        for handler in handlers
        if isinstance(handler, logging.StreamHandler) and any(handler.stream is stream for stream in streams)
    ]
    for handler, _ in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in moved:
            handler.setStream(stream)
