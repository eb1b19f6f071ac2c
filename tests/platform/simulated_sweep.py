"""A sweep without Ray and without training: the real journal, study, sampler and rule, and trials that are curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from platform.search.scheduler import Rule, build_rule
from platform.search.study import Study, spawn_seed
from platform.specs.spec import Spec
from platform.sweeps.journal import Event, Journal, SweepRecord, read_events, replay
from platform.sweeps.study_db import Objectives, frozen_trials
from trainables.decisions import Verdict

optuna.logging.set_verbosity(optuna.logging.ERROR)

PROGRESS = ("proposed", "repeat", "infeasible", "reported", "ended")
Curve = Callable[[Mapping[str, Any], int], dict[str, float]]


class Killed(BaseException):
    """Ends a session where `kill -9` would: after a line of the journal, before any view has heard of it."""


def quality(params: Mapping[str, Any]) -> float:
    """Best at lr = 1e-2 and dropout = 0.2."""
    return 0.95 - 0.1 * (math.log10(params["lr"]) + 2) ** 2 - 0.3 * (params["dropout"] - 0.2) ** 2


def curve(params: Mapping[str, Any], epoch: int) -> dict[str, float]:
    auroc = 0.5 + (quality(params) - 0.5) * (1 - math.exp(-epoch / 3))
    return {"val/auroc": auroc, "val/loss": 1.1 - auroc + 0.01 * epoch, "peak_memory_bytes": 1e8 * epoch}


def static_quantities(params: Mapping[str, Any]) -> dict[str, float]:
    """Return sizes that fall with the drop-out."""
    return {"parameters": 1e5 * (1 - params["dropout"]), "onnx_bytes": 1e6 * (1 - params["dropout"])}


def objectives_of(spec: Spec) -> Objectives:
    return [(objective.metric, objective.mode) for objective in spec.search.objectives]


def rebuilt_study(spec: Spec, record: SweepRecord) -> optuna.Study:
    """Build the study of a record in memory; `test_study_db.py` holds the file to the same."""
    objectives = objectives_of(spec)
    study = optuna.create_study(directions=["maximize" if mode == "max" else "minimize" for _, mode in objectives])
    study.add_trials(list(frozen_trials(record, objectives)))
    return study


def refed_rule(spec: Spec, events: list[Event]) -> Rule:
    rule = Rule(build_rule(spec), spec.budget.epochs, spawn_seed(spec.seed, 0, 2))
    for event in events:
        if event.kind == "reported":
            rule.judge(event.trial, event.body["epoch"], event.body["metrics"])
    return rule


@dataclass
class Disk:
    """What outlives a process: the sweep's folder, and the last epoch that each trial has saved."""

    folder: Path
    saved: dict[str, int] = field(default_factory=dict)


class Session:
    """One process of a sweep, opened on what the journal holds.

    Args:
        kill_after: raise `Killed` after so many events that get the sweep on.
        options: keyword arguments for `Study`, e.g. `static_quantities`.
    """

    def __init__(
        self,
        spec: Spec,
        disk: Disk,
        kill_after: int | None = None,
        curve: Curve = curve,
        study_of: Callable[[Spec, SweepRecord], optuna.Study] = rebuilt_study,
        **options: Any,
    ) -> None:
        self.disk, self.curve, self._kill_after = disk, curve, kill_after
        events = list(read_events(disk.folder))
        self.record = replay(events)
        self.journal = Journal(disk.folder)
        self.record.apply(self.journal.append("opened", resumed=bool(events)))
        self.verdicts: dict[tuple[str, int], Verdict] = {}
        self.proposed: list[dict[str, Any]] = []
        settings: dict[str, Any] = {"static_quantities": static_quantities, "observers": [], **options}
        settings["observers"] = [*settings["observers"], self._observe]
        self.study = Study(
            spec, self.journal, self.record, study_of(spec, self.record), refed_rule(spec, events), post=self._post,
            **settings,
        )  # fmt: skip

    def _post(self, trial: str, epoch: int, verdict: Verdict) -> None:
        self.verdicts[trial, epoch] = verdict

    def _observe(self, event: Event) -> None:
        if self._kill_after is not None and event.kind in PROGRESS:
            self._kill_after -= 1
            if self._kill_after == 0:
                raise Killed

    def run(self, n_trials: int | None = None) -> Session:
        """Run trials one at a time, until the study proposes no more or `n_trials` have run."""
        while (n_trials is None or len(self.proposed) < n_trials) and (task := self.study.propose()) is not None:
            self.proposed.append(task)
            self.train(task)
        self.journal.close()
        return self

    def train(self, task: Mapping[str, Any]) -> str:
        """Do what `trainables.tune_trial` does: save, report, obey; return the outcome."""
        trial, saved = task["trial"], self.disk.saved
        self.study.on_start(trial)
        epoch = saved.get(trial, 0)
        verdict: Verdict = "continue"
        if epoch > task["epochs_reported"]:  # killed between saving and telling
            verdict = self.report(task, epoch)
        while verdict == "continue" and epoch < task["params"]["epochs"]:
            epoch += 1
            saved[trial] = epoch
            verdict = self.report(task, epoch)
        outcome = {"continue": "COMPLETED", "stop": "STOPPED", "interrupt": "INTERRUPTED"}[verdict]
        self.study.on_message(trial, {"outcome": outcome, "error": ""})
        self.study.on_gone(trial, error=None)
        return outcome

    def report(self, task: Mapping[str, Any], epoch: int) -> Verdict:
        reports = [self.curve(task["params"], e) for e in range(1, epoch + 1)]
        metrics = dict(reports[-1])
        if "val/auroc" in metrics:
            metrics["best/val/auroc"] = max(report["val/auroc"] for report in reports)
        message = {"epoch": epoch, **{f"metrics/{name}": value for name, value in metrics.items()}}
        self.study.on_message(task["trial"], message)
        return self.verdicts[task["trial"], epoch]


def run_killed_every(k: int, spec: Spec, disk: Disk, **options: Any) -> Session:
    """Run a sweep whose process is killed after every `k` events that get it on, and taken up again."""
    while True:
        try:
            return Session(spec, disk, kill_after=k, **options).run()
        except Killed:
            continue


def facts(study: optuna.Study) -> list[dict[str, Any]]:
    """Return all that a study knows of its trials, but for the clock's times."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "values": trial.values,
            "params": trial.params,
            "distributions": trial.distributions,
            "intermediate_values": trial.intermediate_values,
            "constraints": trial.constraints,
            "user_attrs": trial.user_attrs,
            "system_attrs": trial.system_attrs,
        }
        for trial in study.trials
    ]
