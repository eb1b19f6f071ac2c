"""Ray Tune's side doors into the study: the searcher that hands out trials, and the callback that sees them live."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray.tune import Callback
from ray.tune.search import Searcher

from platform.search.scheduler import StaysHere

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from platform.search.trial_lives import TrialLives

WHOLE_TRIALS: Final = 200  # that ended last: Tune still reads a trial's state until its process is given back
KEPT_OF_TRIAL: Final = {"trial_id", "status", "trainable_name", "custom_trial_name"}


class StudySearcher(StaysHere, Searcher):
    """Hands the study's proposals, or its repeats, to Tune.

    Ray's own OptunaSearch tells Optuna that a stopped trial is complete with the value of a low rung, never
    sends the last report, leaves a trial with a NaN running for ever, drops constraints and refuses points to
    try first in conditional spaces. All of that is the study's work here.

    Args:
        concurrency: how many trials may be under way now; asked anew before every proposal, since Ray's own limiter
            keeps the number of its start, and nodes come and go.
    """

    def __init__(self, study: TrialLives, concurrency: Callable[[], int]) -> None:
        super().__init__()
        self._study, self._concurrency = study, concurrency
        self._live: set[str] = set()  # Tune's ids

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        if self._live and len(self._live) >= self._concurrency():
            return None  # Tune asks again
        task = self._study.propose()
        if task is None:  # a trial that is under way may be lost, and handed out once more
            return None if self._live else Searcher.FINISHED
        self._live.add(trial_id)
        return {"trial": task["trial"], "task": json.dumps(task)}  # Tune keeps five copies; of a text, they are one

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has passed the result on already."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Make room for the next trial; the end itself has been passed on already."""
        self._live.discard(trial_id)

    # Tune pickles its searcher into a snapshot from which we never restore: the journal is the truth.
    def save(self, checkpoint_path: str) -> None: ...
    def restore(self, checkpoint_path: str) -> None: ...
    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None: ...
    def get_state(self) -> dict[str, Any]:
        return {}


class TrialProcesses(StaysHere, Callback):
    """Tells the study when a trial gets its process or loses it, and gives the live view its turn.

    Tune keeps every trial with all it knows of it, two thirds of what a long sweep's driver would grow by, and looks
    at all of them in every step. Nobody asks for one that has ended, so little more than its name is left of it.
    """

    def __init__(self, study: TrialLives, on_step: Callable[[], None]) -> None:
        self._study, self._on_step = study, on_step
        self._ended: deque[Trial] = deque()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._study.on_start(trial.config["trial"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended.append(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._ended.append(trial)
        # `Trial.get_error` looks into Tune's storage, where the file is brought later.
        error = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "its process died"
        self._study.on_gone(trial.config["trial"], error)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        while len(self._ended) > WHOLE_TRIALS:
            trial = self._ended.popleft()
            trials.remove(trial)
            named = {name: value for name, value in vars(trial).items() if name in KEPT_OF_TRIAL}
            vars(trial).clear()
            vars(trial).update(named, config={})  # from which its name is built
        self._on_step()
