"""A trial inside a sweep: what Ray Tune calls in a worker process, and the boundary around the method.

Whatever a method does, the function given to Tune returns normally, with an outcome: COMPLETED, STOPPED,
INTERRUPTED, UNSAVED (the disk did not take a checkpoint) or FAILED with the traceback. The process stays fit for the
next trial, and the driver writes the end of the trial in one place. So what Tune itself hears of as an error is the
death of a process or a node, and that is tried again.

Torch is imported here only for methods that need it: a process without it starts sooner, and is 200 MB smaller.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.train import ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from data.bucket import fetch, send, uri_of
from trainables.checkpoint import (
    CheckpointNotWritten,
    keep_previous,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from trainables.criterion import with_criteria
from trainables.decisions import Verdict
from trainables.degeneracy import is_degenerate_report
from trainables.method import Method
from trainables.trial import State, TrialStopped

if TYPE_CHECKING:
    import torch

    from data.cross_validation import CrossValidation
    from data.loading import SharedDataset

logger = logging.getLogger(__name__)

Outcome = Literal["COMPLETED", "STOPPED", "INTERRUPTED", "UNSAVED", "FAILED"]
Send = Callable[[dict[str, Any]], None]
Share = Callable[[Verdict], Verdict]

LAST_FILE, PREVIOUS_FILE = "last.ckpt", "previous.ckpt"
BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep share. Pickled into every trial's process."""

    sweep: str
    method: Method
    dataset: SharedDataset | CrossValidation
    decisions: ActorHandle[Any]
    folder: str  # absolute; one subfolder a trial is made in it
    metric: str  # the first objective: it decides which epoch is a trial's best
    maximise: bool
    workers: int  # 0: in the trial's own process; N: a worker group of N processes
    cpus: float  # a worker's, or the trial's where workers is 0
    gpus: float
    criteria: tuple[str, ...] = ()  # metrics of metrics that the spec names; see `trainables.criterion`


@dataclass(frozen=True)
class TrialTask:
    """One trial, as the searcher hands it to Tune: JSON on the way."""

    trial: str
    seed: int
    params: Mapping[str, Any]  # the method's whole configuration, dotted keys
    epochs_reported: int  # what the journal has of an earlier attempt


@dataclass(frozen=True)
class Best:
    """The best epoch so far, by the sweep's first objective; a degenerate one only until there is another."""

    value: float
    epoch: int
    degenerate: bool = False

    def is_beaten_by(self, other: Best, maximise: bool) -> bool:
        if self.degenerate != other.degenerate:
            return self.degenerate
        return other.value > self.value if maximise else other.value < self.value


class TuneTrial:
    """`trainables.trial.Trial` inside a sweep. Every rank has one; rank 0 saves, reports and asks for the verdict.

    Args:
        share: gives every rank the verdict of rank 0.
    """

    def __init__(
        self,
        setup: TrialSetup,
        task: TrialTask,
        send: Send,
        rank: int = 0,
        world_size: int = 1,
        share: Share = lambda verdict: verdict,
    ) -> None:
        self._setup, self._task, self._send, self._share = setup, task, send, share
        self.seed, self.rank, self.world_size = task.seed, rank, world_size
        self.folder = Path(setup.folder) / task.trial
        self.verdict: Verdict = "continue"
        self._best: Best | None = None

    @cached_property
    def device(self) -> torch.device:
        import torch

        return torch.device("cuda") if self._setup.gpus and torch.cuda.is_available() else torch.device("cpu")

    def restore(self) -> State | None:
        checkpoint = self._last_whole()
        if checkpoint is None:
            return None
        epoch = checkpoint["payload"]["epoch"]
        if epoch > self._task.epochs_reported + 1:  # the journal's last lines were lost with the driver's node
            logger.warning(
                "%s knows epoch %d, the journal %d; trained anew", self.folder, epoch, self._task.epochs_reported
            )
            return None
        self._best = Best(**checkpoint["best"])
        state: State = checkpoint["state"]
        if epoch > self._task.epochs_reported:  # killed between saving and telling
            if self._best.epoch == epoch and self.rank == 0:
                self._save_best(epoch, state)  # perhaps the kill came before it
            self._tell(epoch, checkpoint["payload"])
        return state

    def _last_whole(self) -> State | None:
        """Return the last checkpoint that can be read: the one before the last where that is damaged."""
        for name in (LAST_FILE, PREVIOUS_FILE):
            path = self.folder / name
            if path.exists():
                try:
                    return load_checkpoint(path)
                except ValueError as error:
                    logger.warning("%s; an earlier state is used", error)
        return None

    def report(self, epoch: int, metrics: Mapping[str, float], state: Callable[[], State]) -> None:
        payload = self._save(epoch, metrics, state()) if self.rank == 0 else {}
        self._tell(epoch, payload)

    def _save(self, epoch: int, metrics: Mapping[str, float], state: State) -> dict[str, Any]:
        metrics = with_criteria(metrics, self._setup.criteria)
        check_metrics(epoch, metrics, self._setup.metric)
        now = Best(float(metrics[self._setup.metric]), epoch, is_degenerate_report(metrics))
        improved = self._best is None or self._best.is_beaten_by(now, self._setup.maximise)
        best = now if improved or self._best is None else self._best
        extra = {f"best/{self._setup.metric}": best.value, "best_epoch": best.epoch}
        payload = {"epoch": epoch, "metrics": {**{name: float(v) for name, v in metrics.items()}, **extra}}
        self.folder.mkdir(exist_ok=True)
        keep_previous(self.folder / LAST_FILE, self.folder / PREVIOUS_FILE)
        # Saved before it is told: a report in the journal always has its checkpoint.
        save_checkpoint(self.folder / LAST_FILE, {"payload": payload, "best": best.__dict__, "state": state})
        self._put(LAST_FILE)
        if improved:
            self._save_best(epoch, state)
        self._best = best
        return payload

    def _save_best(self, epoch: int, state: State) -> None:
        notes = {"epoch": str(epoch), "thresholds": json.dumps(state.get("thresholds", []))}
        save_weights(self.folder / BEST_FILE, state["model"], notes)
        self._put(BEST_FILE)

    def _put(self, name: str) -> None:
        try:
            send(self.folder / name)
        except OSError as error:
            raise CheckpointNotWritten(f"{uri_of(self.folder)}/{name} can't be written: {error}") from error

    def _tell(self, epoch: int, payload: dict[str, Any]) -> None:
        self._send(payload)
        verdict: Any = "continue"  # Ray's answers have no type
        if self.rank == 0:
            verdict = ray.get(self._setup.decisions.answer.remote(self._task.trial, epoch))
        self.verdict = self._share(verdict)
        if self.verdict != "continue":
            raise TrialStopped


def check_metrics(epoch: int, metrics: Mapping[str, float], objective: str) -> None:
    """Refuse a report without the objective, or with a value that is not finite.

    Raises:
        ValueError: the objective is missing.
        FloatingPointError: a value is not finite.
    """
    if objective not in metrics:
        near = get_close_matches(objective, metrics, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        reported = ", ".join(sorted(metrics))
        raise ValueError(f"search.metric names {objective!r}, but the trial reports {reported}{hint}")
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value} after epoch {epoch}")


def train(setup: TrialSetup, task: TrialTask, trial: TuneTrial) -> dict[str, str]:
    """Run the method behind the trial's boundary, and say how it ended.

    Raises:
        RayError: the cluster lost data or the driver; no method meets Ray, so the trial is tried again.
    """
    try:
        if setup.method.needs_torch:
            _set_torch_threads(setup.cpus)
        config = setup.method.parse_config(task.params)
        setup.method.train(config, setup.dataset.open(), trial)
    except TrialStopped:
        return {"outcome": "INTERRUPTED" if trial.verdict == "interrupt" else "STOPPED", "error": ""}
    except CheckpointNotWritten as error:
        return {"outcome": "UNSAVED", "error": str(error)}
    except RayError:
        raise
    except Exception:  # the trial's boundary: whatever a method raises is that trial's end, not the sweep's
        return {"outcome": "FAILED", "error": traceback.format_exc()}
    return {"outcome": "COMPLETED", "error": ""}


def _set_torch_threads(cpus: float) -> None:
    """Give torch as many threads as the trial has CPUs: two trials on two cores must not fight for four threads."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))


def build_trainable(setup: TrialSetup) -> Callable[[dict[str, Any]], dict[str, str]]:
    """Return the function that Ray Tune runs for every trial of the sweep."""

    def train_trial(config: dict[str, Any]) -> dict[str, str]:
        return _run(setup, TrialTask(**json.loads(config["task"])))

    return train_trial


def place_for_ray(folder: Path) -> str:
    """Return how Ray is told of a folder for files of its own."""
    return uri_of(folder) or str(folder.absolute())


def bring(setup: TrialSetup, task: TrialTask) -> None:
    """Have on this node what an earlier attempt of the trial has left.

    Raises:
        OSError: this node lacks the sweep's folder, or its bucket can't be read. The trial is tried again: outside its
            boundary, this is no fault of the method's.
    """
    folder = Path(setup.folder)
    if uri_of(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fetch(folder / task.trial)
    elif not folder.is_dir():  # a node that joined after the sweep began; another one may have it
        raise FileNotFoundError(f"this node does not see the sweep's folder {folder}; see storage in docs/cluster.md")


def _run(setup: TrialSetup, task: TrialTask) -> dict[str, str]:
    bring(setup, task)
    if setup.workers:
        from trainables.worker_group import run_worker_group

        return run_worker_group(setup, task)
    # In this process, Train's trainer for torch does no more than the one that it extends, which needs no torch.
    trainer: Any = DataParallelTrainer(
        train_loop_per_worker=lambda: train(setup, task, TuneTrial(setup, task, send=tune.report)),
        scaling_config=ScalingConfig(num_workers=0),  # Ray Train's local mode: in this process
    )
    outcome: dict[str, str] = trainer.fit().return_value
    return outcome
