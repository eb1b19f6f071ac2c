"""The scheduler: Ray's rules (ASHA, median stopping), asked by our own trial ids, obeyed cooperatively."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    from platform.search.trial_lives import TrialLives
    from platform.specs.spec import Spec


def rungs(grace_period: int, max_epochs: int, reduction_factor: float) -> tuple[int, ...]:
    """Return the epochs at which ASHA compares trials, as Ray computes them.

    Ray counts rungs by a float logarithm cut to an integer, so that 1 to 243 by 3 gives 1, 3, 9, 27, 81.
    At `max_epochs` itself every trial ends. A rung between two epochs, as 2.5 makes them, acts at the later one.
    """
    n_rungs = int(np.log(max_epochs / grace_period) / np.log(reduction_factor) + 1)
    return tuple(math.ceil(grace_period * reduction_factor**k) for k in range(n_rungs))


def build_rule(spec: Spec) -> TrialScheduler:
    """Build Ray's scheduler of the spec. It judges a trial by its best epoch so far, since that is what is kept."""
    metric, mode = spec.search.objectives[0].metric, spec.search.objectives[0].mode
    grace_period = spec.search.resolved_grace_period(spec.budget.epochs)
    if spec.search.scheduler == "asha":
        return ASHAScheduler(
            time_attr="epoch",
            metric=f"best/{metric}",
            mode=mode,
            max_t=spec.budget.epochs,
            grace_period=grace_period,
            reduction_factor=spec.search.reduction_factor,
            brackets=spec.search.brackets,
            # The last epoch ends a trial as COMPLETED, not as stopped by the scheduler.
            stop_last_trials=False,
        )
    if spec.search.scheduler == "median":
        return MedianStoppingRule(time_attr="epoch", metric=metric, mode=mode, grace_period=grace_period)
    return FIFOScheduler()


@dataclass(frozen=True)
class _TrialKey:
    """Stands in for Ray's trial in Ray's own rules, which only look at the id: ours survives a resume."""

    trial_id: str


class Rule:
    """One of Ray's stopping rules, fed with our trial ids and epochs, live or from the journal."""

    def __init__(self, scheduler: TrialScheduler, max_epochs: int, seed: int) -> None:
        self._scheduler, self._max_epochs, self._seed = scheduler, max_epochs, seed
        self._known: set[str] = set()
        self.stopped: set[str] = set()
        """The trials that the rule has stopped."""

    def judge(self, trial: str, epoch: int, metrics: dict[str, float]) -> bool:
        """Take a report into account, and return whether the rule would stop the trial."""
        if trial in self.stopped:
            return True  # final; Ray's median rule breaks off when it hears of a trial that it has stopped
        key: Any = _TrialKey(trial)
        if trial not in self._known:
            self._add(key)
        verdict = self._scheduler.on_trial_result(_NO_CONTROLLER, key, {"epoch": epoch, **metrics})
        stops = bool(verdict == TrialScheduler.STOP) and epoch < self._max_epochs
        if stops:
            self.stopped.add(trial)
        return stops

    def _add(self, key: Any) -> None:
        """Let ASHA draw the trial's bracket, from a seed of its own: a resume draws the same again."""
        self._known.add(key.trial_id)
        state = np.random.get_state()  # Ray draws from numpy's global generator
        np.random.seed([self._seed, *key.trial_id.encode()])
        self._scheduler.on_trial_add(_NO_CONTROLLER, key)
        np.random.set_state(state)

    def rung_scores(self) -> list[dict[int, dict[str, float]]]:
        """Return ASHA's brackets: rung (epochs) -> trial -> score (higher is better). Empty for other rules."""
        brackets = getattr(self._scheduler, "_brackets", [])
        return [{math.ceil(epochs): dict(scores) for epochs, scores in bracket._rungs} for bracket in brackets]


class _NoController:
    """What the median rule asks for before it would pause a trial: here nothing is ever paused."""

    def get_live_trials(self) -> list[Any]:
        return []


_NO_CONTROLLER: Any = _NoController()


class StaysHere:
    """A part of the sweep that Tune pickles into its snapshot, from which we never restore: it leaves out its state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class CooperativeScheduler(StaysHere, FIFOScheduler):
    """Ray Tune's scheduler of a sweep: passes every report on to the study, and never stops a trial by force.

    Ray's STOP kills the trial. Ours posts the study's verdict for the trial to read; a kill comes only for
    a trial that has not reported for too long.
    """

    def __init__(self, study: TrialLives) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._study = study

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        if not result.get("done"):  # Tune repeats the last result when the function has returned
            self._study.on_message(trial.config["trial"], result)
        return TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        self._study.on_gone(trial.config["trial"], error=None)

    def choose_trial_to_run(self, tune_controller: TuneController, **kwargs: Any) -> Trial | None:
        overdue = {name for name in self._study.running if self._study.is_overdue(name)}
        for trial in list(tune_controller.get_live_trials()) if overdue else []:
            if trial.config["trial"] in overdue:
                # Tune's own stop would keep the hung process, and hand it to the next trial.
                ray.kill(trial.temporary_state.ray_actor)
        return super().choose_trial_to_run(tune_controller, **kwargs)
