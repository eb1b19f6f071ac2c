"""A data step as a stage of a chain: its points run one after the other, journalled and tracked as trials are."""

from __future__ import annotations

import json
import math
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from data.loading import describe
from platform.chains.stage import StageOfChain
from platform.chains.step_report import write_step_report
from platform.command_line import INTERRUPTED
from platform.ingest import made_store, shown_progress
from platform.models.artefacts import ARTEFACTS_FILE
from platform.models.trained_model import TRIALS_FOLDER
from platform.specs.resolved import flat_values
from platform.specs.step import StepSpec
from platform.sweeps.folder import Identity, check_unchanged, code_hash, git_commit, locked, versions
from platform.sweeps.journal import ENDED, Event, EventKind, Journal, SweepRecord, read_events, replay
from platform.sweeps.leaderboard import leaderboard, write_leaderboard
from platform.tracking import Tracker
from trainables.checkpoint import write_whole
from trainables.data_step import DataStep, StepResult, StepStopped

DONE, NOTHING_COMPLETED = 0, 1


def run_step(spec: StepSpec, stage: StageOfChain) -> int:
    """Run a data step at each of its points, or go on with it; return an exit code.

    Raises:
        ValueError, OSError: bad input; nothing was written.
    """
    made_store(spec.data)
    manifest = describe(spec.data).manifest
    assert manifest is not None, "it was just made"
    identity = Identity({**spec.flat(), **stage.inputs}, manifest.fingerprint, code_hash())
    if stage.begun is not None:
        check_unchanged(stage.folder, identity, stage.accept_changes)
    stage.folder.mkdir(exist_ok=True)
    with locked(stage.folder):
        return _StepStage(spec, stage, identity).run()


@dataclass
class _StepRun:
    """`trainables.data_step.StepRun`: one point's run."""

    folder: Path
    seed: int
    show: Callable[[int, int, int], None]
    is_interrupted: bool = False

    def progress(self, done: int, total: int) -> None:
        self.show(done, total, done)
        if self.is_interrupted:
            raise StepStopped


class _StepStage:
    def __init__(self, spec: StepSpec, stage: StageOfChain, identity: Identity) -> None:
        self.spec, self.stage, self.identity = spec, stage, identity
        self.folder = stage.folder
        events = list(read_events(self.folder))
        self.record: SweepRecord = replay(events)
        self.journal = Journal(self.folder)
        self._resumed = bool(events)

    def run(self) -> int:
        self._open()
        (self.folder / "spec.yaml").write_text(self.spec.to_yaml(), encoding="utf-8")
        tracker = self._start_tracker()
        try:
            is_whole = all(self._run_point(number, point) for number, point in enumerate(self.spec.points))
            code = self._conclude() if is_whole else INTERRUPTED
            self._write("closed", reason="done" if is_whole else "interrupted", metrics=self._best_values())
        finally:
            self.journal.close()
            unsent = tracker.close(timeout_s=30)
        if unsent:
            print(f"{unsent} events are not in MLflow yet; send them with:  python -m platform.tracking {self.folder}")
        return code

    def _write(self, kind: EventKind, trial: str = "", **body: Any) -> Event:
        event = self.journal.append(kind, trial, **body)
        self.record.apply(event)
        return event

    def _open(self) -> None:
        self._write(
            "opened",
            name=self.spec.name,
            resumed=self._resumed,
            spec=self.identity.spec,
            fingerprint=self.identity.fingerprint,
            code=self.identity.code,
            overrides=self.stage.overrides,
            git_commit=git_commit(),
            versions=versions(),
            command=self.stage.command,
            notes=[],
            n_bad_records=0,
        )

    def _start_tracker(self) -> Tracker:
        tags = {"step": self.spec.step, "stage": "data step", "fingerprint": self.identity.fingerprint}
        params = {key: str(value) for key, value in self.identity.spec.items()}
        tracking = self.spec.tracking
        assert tracking.experiment is not None, "a chain has one"
        name = self.stage.run_name
        return Tracker(self.folder, tracking.uri, tracking.experiment, tags, params, name, self.stage.run_tags)

    # ------------------------------------------------------------------ points

    def _run_point(self, number: int, point: dict[str, Any]) -> bool:
        """Run the step at a point, unless an earlier process has; return False where it was interrupted."""
        trial, config = f"t{number:04d}", self.spec.step_config(point)
        if trial not in self.record.trials:
            params = flat_values(config.model_dump(mode="json"))
            body = {"number": number, "params": params, "sampled": point}
            self._write("proposed", trial, **body, distributions={}, static={}, system_attrs={})
        known = self.record.trials[trial]
        if known.state in ENDED:
            return True
        self._write("started", trial, attempt=known.attempts + 1)
        folder = self.folder / TRIALS_FOLDER / trial
        folder.mkdir(parents=True, exist_ok=True)
        with shown_progress(f"{self.stage.name} {trial}", "done") as show:
            run = _StepRun(folder.absolute(), self.spec.point_seed(number), show)
            try:
                with _interruptible(run):
                    result = self.spec.data_step.run(config, self.spec.data, run)
                measures = _checked(self.spec.data_step, result, run.folder)
            except StepStopped:
                return False
            except Exception:  # the point's boundary: whatever a step raises is that point's end, not the chain's
                self._write("ended", trial, state="FAILED", error=traceback.format_exc(), constraints={})
                return True
        places = {name: path.relative_to(run.folder).as_posix() for name, path in result.artefacts.items()}
        _write_json(folder / ARTEFACTS_FILE, places)
        self._write("reported", trial, epoch=1, metrics=measures)
        self._write("ended", trial, state="COMPLETED", error="", constraints={})
        return True

    # ------------------------------------------------------------------ the end

    def _best(self) -> str | None:
        well = [trial for trial in self.record.trials.values() if trial.state == "COMPLETED"]
        select = self.spec.select
        if select is None or not well:
            return well[0].trial if well else None
        sign = 1.0 if select.mode == "max" else -1.0
        return max(well, key=lambda trial: sign * trial.last[select.metric]).trial

    def _best_values(self) -> dict[str, float]:
        best = self._best()
        return {} if best is None else {f"best/{name}": v for name, v in self.record.trials[best].last.items()}

    def _conclude(self) -> int:
        """Hand on the best point's artefacts."""
        if self.spec.select is not None:
            table = leaderboard(self.record, self.spec.select.metric, self.spec.select.mode)
            write_leaderboard(self.folder / "leaderboard.csv", table)
        best = self._best()
        if best is None:
            last = [trial.error.strip().splitlines()[-1] for trial in self.record.trials.values()][-1]
            print(f"stage {self.stage.name}: no point completed: {last}")
            return NOTHING_COMPLETED
        point = self.folder / TRIALS_FOLDER / best
        places = json.loads((point / ARTEFACTS_FILE).read_text(encoding="utf-8"))
        kept = {name: f"{TRIALS_FOLDER}/{best}/{place}" for name, place in places.items()}
        _write_json(self.folder / ARTEFACTS_FILE, kept)
        write_step_report(self.folder)
        measures = ", ".join(f"{name} {value:.4g}" for name, value in self.record.trials[best].last.items())
        print(f"stage {self.stage.name}: {best} {measures}")
        return DONE


def _checked(step: DataStep, result: StepResult, folder: Path) -> dict[str, float]:
    """Return a run's measures.

    Raises:
        ValueError: the step has not left what it declares.
    """
    if set(result.artefacts) != set(step.artefacts) or set(result.measures) != step.measures:
        made = f"{sorted(result.artefacts)} and {sorted(result.measures)}"
        raise ValueError(f"{step.name} declares {sorted(step.artefacts)} and {sorted(step.measures)}, but left {made}")
    for name, path in result.artefacts.items():
        if not path.exists() or not path.is_relative_to(folder):
            raise ValueError(f"{step.name}: its artefact {name} must lie in the run's folder, but is {path}")
    for name, value in result.measures.items():
        if not math.isfinite(value):
            raise ValueError(f"{step.name}: its measure {name} is {value}")
    return {name: float(value) for name, value in result.measures.items()}


def _write_json(path: Path, values: Mapping[str, Any] | Sequence[Any]) -> None:
    text = json.dumps(values, indent=2) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def _interruptible(run: _StepRun) -> Iterator[None]:
    """Ctrl-C once: the step ends when it next tells its progress. Twice: stop at once."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if run.is_interrupted:
            raise KeyboardInterrupt
        run.is_interrupted = True

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
