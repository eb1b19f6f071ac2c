"""The study of a sweep: proposes configurations, takes reports, judges and ends trials.

Every event goes to the journal first, then to Optuna; the tracker and the live view follow as observers.
Ray Tune only sees two thin adapters, `searcher.py` and `scheduler.py`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import Trial, TrialState

from platform.search.avoidance import Avoidance
from platform.search.samplers import build_sampler
from platform.search.scheduler import Rule
from platform.search.trial_lives import TrialLives
from platform.specs.quantities import MEASURED_QUANTITIES
from platform.specs.spec import Spec
from platform.specs.targets import are_met
from platform.sweeps.journal import Event, Journal, SweepRecord, TrialRecord
from platform.sweeps.study_db import STATES, outcome_quantities, outcome_values
from trainables.decisions import Verdict

MAX_INFEASIBLE_IN_A_ROW = 1000


class Study(TrialLives):
    """One sweep's search. Not safe for threads: Tune's loop is its only caller.

    Args:
        spec: the resolved spec.
        journal: the open journal.
        record: what the journal held when it was opened; brought up to date with every event.
        optuna_study: the study of the same record.
        rule: the stopping rule, fed with the record's reports.
        static_quantities: flat configuration -> what is known of a trial before training.
        post: tells a trial the verdict on its report.
        observers: called with every event after it is in the journal.
        shortage: says what the disk lacks for one more trial, in one line; empty where there is room.
    """

    def __init__(
        self,
        spec: Spec,
        journal: Journal,
        record: SweepRecord,
        optuna_study: optuna.Study,
        rule: Rule,
        static_quantities: Callable[[Mapping[str, Any]], dict[str, float]],
        post: Callable[[str, int, Verdict], None],
        observers: Sequence[Callable[[Event], None]] = (),
        shortage: Callable[[], str] = str,
    ) -> None:
        super().__init__(spec, journal, record, post, observers)
        self.optuna_study, self._rule = optuna_study, rule
        self._static_quantities, self._shortage = static_quantities, shortage
        self._objectives = spec.objectives
        self._points = list(spec.space.grid() if spec.search.sampler == "grid" else spec.search.try_first)
        self._handles = {trial.trial: self._handle(trial.number) for trial in self._unfinished()}
        self._to_resume = self._unfinished()
        avoid = spec.search.avoid
        self._avoidance = None if avoid is None else Avoidance(avoid, self._objectives, record)
        self.met_by = next((trial.trial for trial in record.trials.values() if self._meets(trial)), None)
        """The trial that met `stop_when`, which ends the search."""
        self.failure = ""  # why no further proposal is possible, where that is an error

    # ------------------------------------------------------------------ proposals

    def propose(self) -> dict[str, Any] | None:
        """Return the next trial's task, interrupted trials first, or None when the sweep proposes no more."""
        if self._interrupted:
            return None
        resumed = self._next_interrupted()
        if resumed is not None:
            return self._task(resumed)
        n_infeasible = 0
        while not self.failure and not self._is_spent():
            trial = self._propose_once()
            if trial is not None and trial.state != "FAILED":
                return self._task(trial)
            n_infeasible = n_infeasible + 1 if trial is None else 0
            if n_infeasible == MAX_INFEASIBLE_IN_A_ROW and self.spec.search.sampler != "grid":  # a grid has an end
                self.failure = (
                    f"{n_infeasible} proposals in a row break the constraints {self.spec.constraint_texts}; "
                    "widen the space or loosen the bounds"
                )
        return None

    def _next_interrupted(self) -> TrialRecord | None:
        """Return the next trial that an earlier process left unfinished and that is to go on."""
        while self._to_resume:
            trial = self._to_resume.pop(0)
            if not trial.reports or self._verdict(trial) == "continue":
                return trial
            # Its last report was judged, but the process ended before the trial heard the verdict.
            self._end(trial.trial, "STOPPED")
        return None

    def _is_spent(self) -> bool:
        """Whether the budget allows no further trial."""
        if self.met_by is not None:
            return True
        grid_done = self.spec.search.sampler == "grid" and self.record.n_proposals >= len(self._points)
        if grid_done or len(self.record.trials) >= self.spec.budget.trials or self._is_over(one_more=True):
            return True
        self.failure = self._shortage()
        return bool(self.failure)

    def _is_over(self, one_more: bool = False) -> bool:
        """Whether a budget that ends running trials too is spent.

        Every trial under way will train an epoch before it can be stopped, so those epochs count already: the
        trials together never train more than `total_epochs`.
        """
        budget = self.spec.budget
        under_way = len(self._handles) - len(self._to_resume) + one_more
        if budget.total_epochs is not None and self.record.epochs + under_way > budget.total_epochs:
            return True
        return budget.wall_time_s is not None and self.record.elapsed_s(time.time()) >= budget.wall_time_s

    def _propose_once(self) -> TrialRecord | None:
        """Ask the sampler once; return the new trial, or None if the proposal is infeasible."""
        n_proposals = self.record.n_proposals
        self.optuna_study.sampler = build_sampler(self.spec, spawn_seed(self.spec.seed, n_proposals))
        if n_proposals < len(self._points):
            self.optuna_study.enqueue_trial(self.spec.space.encode(self._points[n_proposals]))
        handle = self.optuna_study.ask()
        assert handle.number == n_proposals, "the study and the journal count the same proposals"
        params = self.spec.flat_params(self.spec.space.suggest(handle))
        body: dict[str, Any] = {
            "number": handle.number,
            "params": params,
            "sampled": handle.params,
            "distributions": {name: distribution_to_json(d) for name, d in handle.distributions.items()},
            "system_attrs": self._system_attrs(handle),
        }
        excess = self._avoidance.excess(params) if self._avoidance is not None else {}
        static, error = {}, ""
        if not any(value > 0 for value in excess.values()):
            try:
                static = self._static_quantities(params)
            except Exception:  # the trial's boundary: a configuration whose model cannot be built is a FAILED trial
                error = traceback.format_exc()
            excess = self._excess(static, only_known=True)
        if any(value > 0 for value in excess.values()):
            self._write("infeasible", "", **body, static=static, constraints=excess)
            self._tell(handle, TrialState.PRUNED, None, excess)
            return None
        trial = f"t{handle.number:04d}"
        self._write("proposed", trial, **body, static=static)
        handle.set_user_attr("trial", trial)
        self._handles[trial] = handle
        if error:
            self._end(trial, "FAILED", error)
        return self.record.trials[trial]

    def _system_attrs(self, handle: Trial) -> dict[str, Any]:
        """Return what the sampler keeps with the trial: CMA-ES its distribution, NSGA-II its generation."""
        return dict(self.optuna_study._storage.get_trial_system_attrs(handle._trial_id))

    def _task(self, trial: TrialRecord) -> dict[str, Any]:
        return {
            "trial": trial.trial,
            "seed": trial_seed(self.spec.seed, trial.number),
            "params": trial.params,
            "epochs_reported": trial.epochs,
        }

    # ------------------------------------------------------------------ reports

    def _on_report(self, trial: str, epoch: int, metrics: dict[str, float]) -> None:
        self._write("reported", trial, epoch=epoch, metrics=metrics)
        if len(self._objectives) == 1:
            # Not `Trial.report`: it refuses a second report of an epoch, which a trial that lost its checkpoint sends.
            handle, value = self._handles[trial], metrics[self._objectives[0][0]]
            handle.storage.set_trial_intermediate_value(handle._trial_id, epoch, value)
        self._rule.judge(trial, epoch, metrics)
        if self.met_by is None and self._meets(self.record.trials[trial]):
            self.met_by = trial
        self._post(trial, epoch, self._verdict(self.record.trials[trial]))

    def _verdict(self, trial: TrialRecord) -> Verdict:
        """Return the answer to a trial's last report."""
        if trial.epochs >= trial.params["epochs"]:
            return "continue"  # the last epoch ends a trial as COMPLETED
        if trial.trial in self._rule.stopped:
            return "stop"
        if self._interrupted:
            return "interrupt"
        return "stop" if self.met_by is not None or self._is_over() else "continue"

    def _meets(self, trial: TrialRecord) -> bool:
        """Whether the checkpoint that is kept of a trial meets `stop_when` and the constraints."""
        if not trial.reports or trial.state == "FAILED" or not trial.is_feasible:
            return False
        quantities = outcome_quantities(trial, self._objectives)
        known = self._excess(quantities, only_known=True)
        return are_met(self.spec.stopping_targets, quantities) and not any(value > 0 for value in known.values())

    # ------------------------------------------------------------------ ends

    def _end(self, trial: str, state: str, error: str = "") -> None:
        values: Sequence[float] | None = None
        excess: dict[str, float] = {}
        if state != "FAILED":
            try:
                values, excess = self._assess(self.record.trials[trial])
            except ValueError as fault:
                state, error = "FAILED", str(fault)
        body: dict[str, Any] = {"state": state, "error": error, "constraints": excess}
        if state == "STOPPED":
            body["reason"] = self._stop_reason(trial)
        self._write("ended", trial, **body)
        if self._avoidance is not None:
            self._avoidance.take(self.record.trials[trial])
        self._tell(self._handles.pop(trial), STATES[state], values if state == "COMPLETED" else None, excess)

    def _stop_reason(self, trial: str) -> str:
        if trial in self._rule.stopped:
            return "scheduler"
        return "target" if self.met_by is not None else "budget"

    def _assess(self, trial: TrialRecord) -> tuple[list[float], dict[str, float]]:
        """Return the objectives and the excesses of a trial that ran.

        Raises:
            ValueError: it reported nothing, or not what the spec names.
        """
        if not trial.reports:
            raise ValueError("the trial ended without a report")
        excess = self._excess(outcome_quantities(trial, self._objectives))
        return outcome_values(trial, self._objectives), excess

    def _tell(
        self, handle: Trial, state: TrialState, values: Sequence[float] | None, constraints: Mapping[str, float]
    ) -> None:
        for rule, excess in constraints.items():
            handle.set_constraint(rule, excess)
        self.optuna_study.tell(handle, state=state, values=values)

    def _excess(self, quantities: Mapping[str, float], only_known: bool = False) -> dict[str, float]:
        return {
            constraint.text: constraint.excess(quantities)
            for constraint in self.spec.parsed_constraints
            if constraint.quantity in quantities or not (only_known or constraint.quantity in MEASURED_QUANTITIES)
        }

    # ------------------------------------------------------------------ resuming

    def _go_on_later(self, trial: str) -> None:
        self._to_resume.append(self.record.trials[trial])

    def _unfinished(self) -> list[TrialRecord]:
        return [trial for trial in self.record.trials.values() if trial.state in ("PROPOSED", "RUNNING")]

    def _handle(self, number: int) -> Trial:
        trial_id = self.optuna_study.get_trials(deepcopy=False)[number]._trial_id
        return Trial(self.optuna_study, trial_id)


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial, by its number."""
    return spawn_seed(seed, number, 1)


def spawn_seed(seed: int, *key: int) -> int:
    """Derive an independent 31-bit seed for one use of the spec's seed."""
    return int(np.random.SeedSequence(entropy=seed, spawn_key=key).generate_state(1)[0] >> 1)
