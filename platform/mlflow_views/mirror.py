"""MLflow's runs of a sweep as a view of its journal: a parent run for the sweep, a child run for each trial.

A repeat is a child of the sweep too, with the tag `repeat_of`; a fold is a child of its trial, with the tag `fold`.

Every call can be sent twice without harm: runs are found again by their tags, parameters never change,
and a metric carries the journal's time, so that the tracking store drops its second copy.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

from platform.project import ROOT
from platform.sweeps.folder import RESULT_FOLDER, SCORES_FOLDER
from platform.sweeps.journal import ENDED, Event, SweepRecord, TrialRecord
from trainables.fold_metrics import split_by_fold

SQLITE = "sqlite:///"
ARTIFACTS = (
    "spec.yaml",
    "leaderboard.csv",
    "repeats.csv",
    "report.html",
    "best",
    RESULT_FOLDER,
    SCORES_FOLDER,
)  # of the sweep's folder, where they are there
PARENT = ""  # the parent's key beside the trials' ids, as in the journal

# Limits of MLflow 3.17 (mlflow/utils/validation.py).
MAX_KEY, MAX_PARAM, MAX_TAG = 250, 6000, 8000

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STATUS: Mapping[str, RunStatus] = {"COMPLETED": "FINISHED", "STOPPED": "FINISHED", "FAILED": "FAILED"}


@dataclass(frozen=True)
class Target:
    """Where a sweep is mirrored to, and what every run of it carries.

    Attributes:
        uri: a tracking URI; a relative `sqlite:///` path counts from the project's root.
        experiment: the experiment's name; made where it is missing.
        sweep: the sweep's name, a tag of every run.
        tags: tags of every run.
        params: parameters of the parent run, flat dotted keys.
        chain: of a stage: the tags by which the chain's own run is found, below which the stage's stands.
    """

    uri: str
    experiment: str
    sweep: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    chain: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "'" in self.sweep:
            raise ValueError(f"a sweep's name must not hold a quote, but got {self.sweep!r}; rename its folder")

    @property
    def resolved_uri(self) -> str:
        path = self._database
        return self.uri if path is None else f"{SQLITE}{path}"

    @property
    def artifact_location(self) -> str | None:
        """`mlruns/` beside a local database, where plain `mlflow ui` reads it; None leaves it to the server."""
        path = self._database
        return None if path is None else (path.parent / "mlruns" / self.experiment).as_uri()

    @property
    def _database(self) -> Path | None:
        return ROOT / self.uri.removeprefix(SQLITE) if self.uri.startswith(SQLITE) else None

    def to_fields(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items()}


class Mirror:
    """Writes events of one sweep to MLflow. Not safe for threads or a second writer.

    Building it reads which runs are there already; after any error, build a new one, since a call whose
    answer was lost may have made a run.
    """

    def __init__(self, target: Target, folder: Path, opened_s: float) -> None:
        self._target, self._folder = target, folder
        self._client = MlflowClient(tracking_uri=target.resolved_uri)
        self._experiment_id = self._open_experiment()
        # The name alone is not unique on a server that several people use.
        self._identity = run_identity(target.sweep, opened_s)
        self._runs: dict[str, str] = {}
        self._statuses: dict[str, str] = {}
        for run in self._existing_runs(self._identity):
            self._remember(_run_key(run.data.tags.get("trial", PARENT), run.data.tags.get("fold")), run)

    def send(self, record: SweepRecord, events: Sequence[Event]) -> None:
        """Bring the runs up to date with `events`, which `record` has already taken in.

        Raises:
            mlflow.exceptions.MlflowException, OSError: the tracking store did not take it; send the same again later.
        """
        if PARENT not in self._runs:
            self._create_parent(record)
        if any(event.kind == "opened" for event in events):
            self._open_parent()
        for trial, own in _by_trial(events).items():
            self._send_trial(record.run(trial), own)
        self._send_tests(record, [event for event in events if event.kind == "tested"])
        closed = _last_closed(events)
        if closed is not None:
            self._close(record, closed)

    def kill(self, record: SweepRecord, time_s: float) -> None:
        """Mark every run that is still running as KILLED: its process is gone, and a resume opens it again."""
        for trial in (*record.trials.values(), *record.repeats.values()):
            for key in (trial.trial, *self._folds(trial.trial)):
                if trial.state == "RUNNING" and self._statuses.get(key) == "RUNNING":
                    self._end(key, "KILLED", "INTERRUPTED", time_s)
        if self._statuses.get(PARENT) == "RUNNING":
            self._end(PARENT, "KILLED", "INTERRUPTED", time_s)

    # ------------------------------------------------------------------ experiment and runs

    def _open_experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._target.experiment)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(self._target.experiment, self._target.artifact_location))

    def _existing_runs(self, identity: Mapping[str, str]) -> Iterator[Run]:
        rules = [f"tags.{key} = '{value}'" for key, value in identity.items()]
        token = None
        while True:
            page = self._client.search_runs([self._experiment_id], " and ".join(rules), page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _create(self, key: str, start_s: float, tags: Mapping[str, str], name: str) -> None:
        tags = {**self._target.tags, **self._identity, **tags, MLFLOW_SOURCE_NAME: "platform.sweep"}
        run = self._client.create_run(
            self._experiment_id, _ms(start_s), {_key(k): _clip(v, MAX_TAG) for k, v in tags.items()}, name
        )
        self._remember(key, run)

    def _remember(self, key: str, run: Run) -> None:
        self._runs[key], self._statuses[key] = run.info.run_id, run.info.status

    def _reopen(self, key: str) -> None:
        if self._statuses[key] != "RUNNING":
            self._client.update_run(self._runs[key], status="RUNNING")
            self._statuses[key] = "RUNNING"

    def _end(self, key: str, status: RunStatus, state: str, time_s: float) -> None:
        self._log(key, tags={"state": state})
        self._client.set_terminated(self._runs[key], status, _ms(time_s))
        self._statuses[key] = status

    def _log(
        self,
        key: str,
        metrics: Iterable[Metric] = (),
        params: Mapping[str, str] = MappingProxyType({}),
        tags: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Send everything in one call; the client cuts it where it passes MLflow's limits for a batch."""
        self._client.log_batch(
            self._runs[key],
            list(metrics),
            [Param(_key(name), _clip(value, MAX_PARAM)) for name, value in params.items()],
            [RunTag(_key(name), _clip(value, MAX_TAG)) for name, value in tags.items()],
        )

    # ------------------------------------------------------------------ trials

    def _send_trial(self, trial: TrialRecord, events: Sequence[Event]) -> None:
        if trial.state == "PROPOSED":  # it has no run before it starts, so that durations are true
            return
        whole = trial.trial not in self._runs or any(event.kind == "started" for event in events)
        if trial.trial not in self._runs:
            tags = {"trial": trial.trial, MLFLOW_PARENT_RUN_ID: self._runs[PARENT], **_repeat_tags(trial)}
            self._create(trial.trial, trial.started_s or trial.proposed_s, tags, trial.trial)
        if trial.state == "RUNNING":
            self._reopen(trial.trial)
        params = _trial_params(trial) if whole else {}
        self._log(trial.trial, _trial_metrics(trial, events, whole), params, _trial_tags(trial))
        for fold, metrics in _fold_metrics(trial, events, whole).items():
            self._send_fold(trial, fold, metrics)
        if trial.state in ENDED:
            self._end_trial(trial)

    def _send_fold(self, trial: TrialRecord, fold: int, metrics: Sequence[Metric]) -> None:
        key = _run_key(trial.trial, str(fold))
        if key not in self._runs:
            tags = {"trial": trial.trial, "fold": str(fold), MLFLOW_PARENT_RUN_ID: self._runs[trial.trial]}
            self._create(key, trial.started_s or trial.proposed_s, {**tags, **_repeat_tags(trial)}, key)
        if trial.state == "RUNNING":
            self._reopen(key)
        self._log(key, metrics, tags={"state": trial.state})

    def _folds(self, trial: str) -> list[str]:
        """Return the keys of the runs of a trial's folds."""
        return [key for key in self._runs if key.startswith(_run_key(trial, ""))]

    def _end_trial(self, trial: TrialRecord) -> None:
        run_id, ended_s = self._runs[trial.trial], trial.ended_s
        assert ended_s is not None, "a trial that ended has the time of its end"
        if trial.error:
            self._client.log_text(run_id, trial.error, "traceback.txt")
        self._client.set_terminated(run_id, STATUS[trial.state], _ms(ended_s))
        self._statuses[trial.trial] = STATUS[trial.state]
        for key in self._folds(trial.trial):
            self._end(key, STATUS[trial.state], trial.state, ended_s)

    # ------------------------------------------------------------------ the sweep

    def _create_parent(self, record: SweepRecord) -> None:
        tags = {"state": "RUNNING", **self._below_the_chain()}
        self._create(PARENT, record.sessions[0][0], tags, self._target.sweep)
        self._open_parent()

    def _below_the_chain(self) -> dict[str, str]:
        """Return the tag that makes a stage's run a child of its chain's.

        Raises:
            OSError: the chain's run is not there yet; the tracker tries again later.
        """
        if not self._target.chain:
            return {}
        run = next(self._existing_runs(self._target.chain), None)
        if run is None:
            raise OSError(
                f"the chain's run is not there; send it first: python -m platform.tracking {self._folder.parent}"
            )
        return {MLFLOW_PARENT_RUN_ID: run.info.run_id}

    def _open_parent(self) -> None:
        """Set the parent running, with its parameters; MLflow keeps the first value of one, so later ones are tags."""
        known = self._client.get_run(self._runs[PARENT]).data.params
        new = {key: value for key, value in self._target.params.items() if _key(key) not in known}
        changed = {
            f"changed.{key}": value
            for key, value in self._target.params.items()
            if _key(key) in known and known[_key(key)] != _clip(value, MAX_PARAM)
        }
        self._log(PARENT, params=new, tags={"state": "RUNNING", **changed})
        self._reopen(PARENT)

    def _send_tests(self, record: SweepRecord, tested: Sequence[Event]) -> None:
        for event in tested:
            look = record.tested.index(event) + 1
            self._log(PARENT, _metrics({**_test_numbers(event.body), "test_looks": look}, event.time_s, look))
            if "repeat" in event.body:
                repeat = event.body["repeat"]
                self._log(repeat["trial"], _metrics(_test_numbers(repeat), event.time_s, look))

    def _close(self, record: SweepRecord, closed: Event) -> None:
        numbers = {**_counts(record), **closed.body.get("metrics", {})}
        self._log(PARENT, _metrics(numbers, closed.time_s, len(record.closed)))
        self._send_files()
        if closed.body["reason"] != "interrupted":
            # A chain has no trials: it has come to its end, or a stage has found nothing.
            states = [trial.state for trial in record.trials.values()]
            found = (
                any(state in ("COMPLETED", "STOPPED") for state in states)
                if states
                else closed.body["reason"] == "done"
            )
            self._end(PARENT, *(("FINISHED", "COMPLETED") if found else ("FAILED", "FAILED")), closed.time_s)
        self.kill(record, closed.time_s)

    def _send_files(self) -> None:
        for name in ARTIFACTS:
            path = self._folder / name
            if path.is_dir():
                self._client.log_artifacts(self._runs[PARENT], str(path), name)
            elif path.exists():
                self._client.log_artifact(self._runs[PARENT], str(path))


# ---------------------------------------------------------------------- what the journal's events are in MLflow


def _by_trial(events: Iterable[Event]) -> dict[str, list[Event]]:
    groups: dict[str, list[Event]] = {}
    for event in events:
        if event.trial and event.kind != "tested":  # a look at test belongs to the sweep
            groups.setdefault(event.trial, []).append(event)
    return groups


def _last_closed(events: Iterable[Event]) -> Event | None:
    """Return the end of the sweep's process, unless a later one has taken it up again."""
    turns = [event for event in events if event.kind in ("opened", "closed")]
    return turns[-1] if turns and turns[-1].kind == "closed" else None


def _trial_metrics(trial: TrialRecord, events: Iterable[Event], whole: bool) -> list[Metric]:
    reported = [event.body["epoch"] for event in events if event.kind == "reported"]
    rows = _metrics(trial.static, trial.proposed_s, 0) if whole else []
    if trial.measured and (whole or any(event.kind == "measured" for event in events)):
        rows += _metrics(trial.measured, trial.ended_s or trial.proposed_s, 0)
    for epoch in sorted(trial.reports) if whole else reported:
        own, _ = split_by_fold(trial.reports[epoch])
        rows += _metrics(own, trial.report_times_s[epoch], epoch)
    return rows


def _fold_metrics(trial: TrialRecord, events: Iterable[Event], whole: bool) -> dict[int, list[Metric]]:
    reported = [event.body["epoch"] for event in events if event.kind == "reported"]
    rows: dict[int, list[Metric]] = {}
    for epoch in sorted(trial.reports) if whole else reported:
        _, folds = split_by_fold(trial.reports[epoch])
        for fold, numbers in folds.items():
            rows.setdefault(fold, []).extend(_metrics(numbers, trial.report_times_s[epoch], epoch))
    return rows


def _run_key(trial: str, fold: str | None) -> str:
    return trial if fold is None else f"{trial}/fold{fold}"


def _repeat_tags(trial: TrialRecord) -> dict[str, str]:
    return {"repeat_of": trial.repeat_of, "trial_seed": str(trial.seed)} if trial.repeat_of else {}


def _trial_params(trial: TrialRecord) -> dict[str, str]:
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in trial.params.items()}


def _trial_tags(trial: TrialRecord) -> dict[str, str]:
    tags = {"state": trial.state, "attempts": str(trial.attempts)}
    if trial.constraints:
        tags["feasible"] = json.dumps(all(excess <= 0 for excess in trial.constraints.values()))
    if trial.error:
        tags["error"] = trial.error.strip().splitlines()[-1]
    return tags


def _counts(record: SweepRecord) -> dict[str, float]:
    states = [trial.state for trial in record.trials.values()]
    counts = {f"trials/{state.lower()}": states.count(state) for state in ENDED}
    return {**counts, "trials/infeasible": len(record.infeasible), "epochs": record.epochs}


def _test_numbers(look: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a look at test as `test/<name>`, their intervals as `test/<name>/low` and `/high`."""
    numbers = {f"test/{name}": value for name, value in look.get("metrics", {}).items()}
    for name, (low, high) in look.get("intervals", {}).items():
        numbers |= {f"test/{name}/low": low, f"test/{name}/high": high}
    return numbers


def run_identity(sweep: str, opened_s: float) -> dict[str, str]:
    """Return the tags by which all runs of a sweep, or of a chain, are found again."""
    return {"sweep": sweep, "opened": _iso(opened_s)}


def _metrics(numbers: Mapping[str, float], time_s: float, step: int) -> list[Metric]:
    return [Metric(_key(name), float(value), _ms(time_s), step) for name, value in numbers.items()]


def _key(name: str) -> str:
    """Return `name` in the characters that MLflow allows."""
    return re.sub(r"[^\w\-./ :]", "_", name)[:MAX_KEY]


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _ms(time_s: float) -> int:
    return round(time_s * 1000)


def _iso(time_s: float) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.UTC).isoformat(timespec="milliseconds")
