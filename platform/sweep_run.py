"""One process's work on a sweep, from checked input to the printed outcome."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import FrameType
from typing import Any

from ray.actor import ActorHandle

from data.card import DataCard
from data.cross_validation import CrossValidation, FoldPlan
from data.loading import Description, SharedDataset, describe, materialise
from data.node_check import check_nodes
from platform.cluster import ray_cluster
from platform.command_line import INTERRUPTED, one_line
from platform.ingest import made_store
from platform.methods.outcomes import METHOD_OUTCOMES
from platform.methods.preparations import METHOD_PREPARATIONS
from platform.models.trained_model import DATA_CARD_NAME, TRIALS_FOLDER
from platform.outcomes.choice import choose
from platform.outcomes.outcome import Outcome, conclude
from platform.pages.live_view import Budget, LiveView
from platform.search.avoidance import AvoidFiles, avoided_at_start, new_avoided
from platform.search.concurrency import Concurrency, check_room
from platform.search.incumbents import Incumbents
from platform.search.repeats import Repeats, print_repeat
from platform.search.runner import run_trials
from platform.search.scheduler import Rule, build_rule
from platform.search.study import Study, spawn_seed
from platform.search.trial_lives import TrialLives
from platform.specs.spec import Spec
from platform.sweep_request import Request
from platform.sweeps.checkpoints import CheckpointKeeper
from platform.sweeps.folder import (
    Identity,
    check_unchanged,
    code_hash,
    git_commit,
    locked,
    new_folder,
    size_bytes,
    versions,
)
from platform.sweeps.journal import Event, Journal, JournalLost, SweepRecord, is_of_the_disk, read_events, replay
from platform.sweeps.pareto import front_axes
from platform.sweeps.sender import sent
from platform.sweeps.study_db import FILE_NAME as STUDY_NAME
from platform.sweeps.study_db import write_study
from platform.tracking import Tracker
from trainables.decisions import Verdict, running_decisions
from trainables.onnx_export import static_quantities
from trainables.tune_trial import TrialSetup

DONE, NOTHING_COMPLETED = 0, 1  # exit codes, beside those of every command
LAST_WORDS_S = 3.0  # that a second Ctrl-C gives the tracker


def prepare(spec: Spec, request: Request, resources: ExitStack) -> SweepRun:
    """Check all input, start Ray, read the data, and take the sweep's folder, in this order: bad input writes nothing.

    Raises:
        ValueError, OSError: bad input.
    """
    description = describe(spec.data)
    spec.check_quantities(description.label_set.task)  # before Ray takes its seconds to start
    spec.check_method(description.signal, description.label_set)
    avoided = avoided_at_start(spec.search.avoid)
    resources.enter_context(ray_cluster(request.address))
    check_room(spec.resources, request.is_elastic)
    made_store(spec.data)
    description = describe(spec.data)
    assert description.manifest is not None
    inputs = {} if request.stage is None else request.stage.inputs
    identity = Identity({**spec.flat(), **inputs}, description.manifest.fingerprint, code_hash())
    if request.resume is not None:
        check_unchanged(request.resume, identity, request.accept_changes)
    check_nodes(Path(spec.data.store), identity.fingerprint, request.place)
    dataset = _materialise(spec)
    if dataset.n_bad_records:
        print(f"{dataset.n_bad_records} records of corrupt shards are left out: {', '.join(dataset.bad_shards)}")
    training_data = _training_data(spec, dataset)
    folder = request.resume or _new_folder(request, spec)
    resources.enter_context(locked(folder))
    resources.enter_context(sent(folder))
    decisions = resources.enter_context(running_decisions())
    return SweepRun(spec, request, folder, identity, description, dataset, training_data, decisions, avoided)


def _new_folder(request: Request, spec: Spec) -> Path:
    if request.stage is None:
        return new_folder(request.runs, spec.name)
    request.stage.folder.mkdir(exist_ok=True)
    return request.stage.folder


def _materialise(spec: Spec) -> SharedDataset:
    """Prepare the data; under `folds` whole, since each fold takes its own share of its training records."""
    return materialise(spec.data.model_copy(update={"finetune_label_ratio": 1.0}) if spec.folds else spec.data)


def _training_data(spec: Spec, dataset: SharedDataset) -> SharedDataset | CrossValidation:
    if spec.folds is None:
        return dataset
    data = spec.data
    return CrossValidation(dataset, FoldPlan.of(dataset.open(), spec.folds.k, data.seed, data.finetune_label_ratio))


@dataclass(eq=False)
class SweepRun:
    """One process's work on a sweep: builds the parts, runs the trials, concludes."""

    spec: Spec
    request: Request
    folder: Path
    identity: Identity
    description: Description
    dataset: SharedDataset
    training_data: SharedDataset | CrossValidation
    decisions: ActorHandle[Any]
    avoided: Mapping[str, Sequence[float]]
    _unsaved: str = field(default="", init=False)  # why a repeat's checkpoint could not be written

    @property
    def name(self) -> str:
        return self.folder.name if self.request.stage is None else self.request.stage.run_name

    @cached_property
    def _concurrency(self) -> Concurrency:
        return Concurrency(self.spec.resources, self.request.is_elastic)

    def run(self) -> int:
        events = list(read_events(self.folder))
        record = replay(events)
        journal = Journal(self.folder)
        record.apply(self._open(journal, resumed=bool(events)))
        (self.folder / "spec.yaml").write_text(self.spec.to_yaml(), encoding="utf-8")
        card = DataCard.of(self.spec.data, self.dataset, self.identity.fingerprint)
        (self.folder / DATA_CARD_NAME).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        tracker = self._start_tracker()
        try:
            self._prepare_method()
            study, setup = self._build_study(journal, record, events)
            with self._live_view(record) as view, _interruptible(study):
                view.update(record)  # what earlier processes ended is not news
                run_trials(study, setup, self.folder, self._concurrency, on_step=partial(view.update, record))
            is_whole = not study.interrupted and self._repeat(study, setup, journal)
            outcome = self._conclude(study, journal) if is_whole else None
            if outcome is None:
                journal.append("closed", reason="interrupted")
        except BaseException as error:  # the second Ctrl-C too: a resume goes on, and no run is left RUNNING
            with suppress(JournalLost, OSError):  # a full disk keeps what was written before
                journal.append("closed", reason="interrupted")
                journal.close()
            tracker.close(timeout_s=LAST_WORDS_S)
            if not is_of_the_disk(error):
                raise
            return self._stopped_by_disk(str(error))
        journal.close()
        unsent = tracker.close(timeout_s=30)
        if unsent:
            print(f"{unsent} events are not in MLflow yet ({tracker.error or 'it is slow'}); send them with:")
            print(f"  python -m platform.tracking {self.folder}")
        if study.unsaved or self._unsaved:
            return self._stopped_by_disk(study.unsaved or self._unsaved)
        return self._report(outcome, study)

    def _stopped_by_disk(self, error: str) -> int:
        resume = self.request.resume_command(self.folder)
        print(f"error: {one_line(error)}; make room, and go on with:  {resume}", file=sys.stderr)
        return INTERRUPTED

    def _prepare_method(self) -> None:
        prepare = METHOD_PREPARATIONS.get(self.spec.method)
        if prepare is not None:
            prepare(self.spec, self.dataset)

    def _open(self, journal: Journal, resumed: bool) -> Event:
        manifest = self.description.manifest
        assert manifest is not None
        return journal.append(
            "opened",
            name=self.spec.name,
            resumed=resumed,
            spec=self.identity.spec,
            fingerprint=self.identity.fingerprint,
            code=self.identity.code,
            overrides=self.request.overrides,
            git_commit=git_commit(),
            versions=versions(),
            command=self.request.command,
            notes=list(manifest.notes),
            n_bad_records=self.dataset.n_bad_records,
        )

    def _start_tracker(self) -> Tracker:
        tags = {
            "method": self.spec.method,
            "store": Path(self.spec.data.store).name,
            "fingerprint": self.identity.fingerprint,
            "sweep": self.name,
            "stage": "search",
            "seed": str(self.spec.seed),
            "git_commit": git_commit(),
            "versions": versions(),
        }
        params = {key: str(value) for key, value in self.identity.spec.items()}
        return Tracker(
            self.folder,
            self.spec.tracking.uri,
            self.spec.tracking.experiment or tags["store"],
            tags,
            params,
            sweep_name=self.name,
            chain={} if self.request.stage is None else self.request.stage.run_tags,
        )

    def _live_view(self, record: SweepRecord) -> LiveView:
        spec = self.spec
        budget = Budget(spec.budget.trials, spec.budget.most_epochs, spec.budget.wall_time_s, spec.budget.disk_bytes)
        first = spec.search.objectives[0]
        earlier_s = record.elapsed_s(record.sessions[-1][0])
        return LiveView(
            self.name, budget, first.metric, first.mode, partial(size_bytes, self.folder), earlier_s=earlier_s
        )

    def _build_study(self, journal: Journal, record: SweepRecord, events: Sequence[Event]) -> tuple[Study, TrialSetup]:
        spec, objectives = self.spec, self.spec.objectives
        rule = Rule(build_rule(spec), spec.budget.epochs, spawn_seed(spec.seed, 0, 2))
        for event in events:  # ASHA's rungs, as they were
            if event.kind == "reported" and event.trial in record.trials:
                rule.judge(event.trial, event.body["epoch"], event.body["metrics"])
        for event in new_avoided(self.avoided, record, journal):
            record.apply(event)
        keeper = self._keeper(record)
        study = Study(
            spec,
            journal,
            record,
            write_study(self.folder / STUDY_NAME, self.name, objectives, record, spec.space.distributions()),
            rule,
            self._static_quantities,
            self._post,
            observers=[keeper.on_event, *self._followers(record)],
            shortage=keeper.shortage,
        )
        setup = TrialSetup(
            sweep=self.name.replace("/", "-"),
            method=spec.training,
            dataset=self.training_data,
            decisions=self.decisions,
            folder=str(self._trials.absolute()),
            metric=objectives[0][0],
            maximise=objectives[0][1] == "max",
            criteria=spec.criteria,
            workers=spec.resources.workers,
            cpus=spec.resources.cpus,
            gpus=spec.resources.gpus,
        )
        return study, setup

    @property
    def _trials(self) -> Path:
        return self.folder / TRIALS_FOLDER

    def _keeper(self, record: SweepRecord) -> CheckpointKeeper:
        own = METHOD_OUTCOMES.get(self.spec.method)
        cell = None if own is None else own.cell
        disk_bytes, axes = self.spec.budget.disk_bytes, front_axes(self.spec)
        return CheckpointKeeper(self.folder, self._trials, record, self.spec.objectives, disk_bytes, cell, axes)

    def _followers(self, record: SweepRecord) -> Iterator[Callable[[Event], None]]:
        """Yield who writes files as the search goes on."""
        avoid, own = self.spec.search.avoid, METHOD_OUTCOMES.get(self.spec.method)
        if avoid is not None:
            yield AvoidFiles(self.folder, avoid, self.spec.objectives, record).on_event
        if own is not None and own.on_incumbent is not None:
            yield Incumbents(self.folder, record, self.spec.objectives, own.on_incumbent).on_event

    def _post(self, trial: str, epoch: int, verdict: Verdict) -> None:
        self.decisions.post.remote(trial, epoch, verdict)

    def _static_quantities(self, params: Mapping[str, Any]) -> dict[str, float]:
        method = self.spec.training
        config = method.parse_config(params)
        return static_quantities(method, config, self.dataset.signal, self.dataset.label_set)

    def _repeat(self, study: Study, setup: TrialSetup, journal: Journal) -> bool:
        """Train the chosen trial's configuration with other seeds; return False where that was interrupted."""
        spec, record = self.spec, study.record
        choice = None if spec.repeats is None else choose(spec, self.folder, record, journal)
        if spec.repeats is None or choice is None:
            return True
        keeper = self._keeper(record)
        observers: list[Callable[[Event], None]] = [
            keeper.on_event,
            partial(print_repeat, record, *self.spec.objectives[0]),
        ]
        repeats = Repeats(spec, journal, record, choice.chosen, self._post, observers, keeper.shortage)
        if not repeats.is_done:
            print(f"{choice.chosen.trial} again with {spec.repeats.seeds} other seeds")
            with _interruptible(repeats):
                run_trials(repeats, setup, self.folder, self._concurrency, on_step=lambda: None)
        self._unsaved = repeats.unsaved
        if repeats.failure:
            print(f"error: {repeats.failure}", file=sys.stderr)
        return not repeats.interrupted

    def _conclude(self, study: Study, journal: Journal) -> Outcome:
        """Evaluate the best trial and write the sweep's results."""
        outcome = conclude(
            self.spec, self.folder, study.record, journal, self.description, self.dataset, study.optuna_study
        )
        journal.append("closed", reason="target" if study.met_by else "done", metrics=outcome.best_values(self.spec))
        return outcome

    def _report(self, outcome: Outcome | None, study: Study) -> int:
        resume = self.request.resume_command(self.folder)
        if outcome is None:
            print(f"interrupted; go on with:  {resume}")
            return INTERRUPTED
        print(outcome.text(self.folder, self.spec, resume, self.request.stage.key if self.request.stage else ""))
        if study.failure:
            print(f"error: {study.failure}", file=sys.stderr)
        return DONE if outcome.best is not None else NOTHING_COMPLETED


@contextmanager
def _interruptible(study: TrialLives) -> Iterator[None]:
    """Ctrl-C once: running trials end at their next report, to be resumed. Twice: stop at once."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if study.interrupted:
            raise KeyboardInterrupt
        study.interrupt()
        print("interrupted: waiting for the running trials' next reports; Ctrl-C again stops at once", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
