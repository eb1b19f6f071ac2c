"""A trial as a group of worker processes with DistributedDataParallel, run by Ray Train inside the Tune trial."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

from trainables.checkpoint import CheckpointNotWritten
from trainables.decisions import Verdict
from trainables.tune_trial import Outcome, TrialSetup, TrialTask, TuneTrial, bring, place_for_ray, train

LOST_RANK: Final = ("gloo/transport", "torch.distributed.Dist")
"""What stands in the traceback of a collective whose other end is gone: the fault is that rank's, or its machine's."""


class MethodFailed(RuntimeError):  # noqa: N818  (an outcome, on its way out of a rank)
    """The method raised an exception; the text is its traceback."""


ENDS: Final[Mapping[type[Exception], Outcome]] = {CheckpointNotWritten: "UNSAVED", MethodFailed: "FAILED"}


def run_worker_group(setup: TrialSetup, task: TrialTask) -> dict[str, str]:
    """Train one trial on `setup.workers` processes; the calling process only waits and forwards reports.

    Raises:
        WorkerGroupError: a process or a node died; the trial is tried again.
    """
    trainer: Any = TorchTrainer(  # Any: Ray's types are those of Train V1, whose loops return nothing
        train_loop_per_worker=_train_rank,  # type: ignore[arg-type]
        train_loop_config={"setup": setup, "task": task},
        scaling_config=ScalingConfig(
            num_workers=setup.workers,
            use_gpu=bool(setup.gpus),
            resources_per_worker={"CPU": setup.cpus, **({"GPU": setup.gpus} if setup.gpus else {})},
        ),
        run_config=RunConfig(
            # The attempt's own name: Ray Train silently resumes a run whose name it has seen.
            name=f"{task.trial}-{uuid.uuid4().hex[:8]}",
            storage_path=place_for_ray(Path(setup.folder) / ".train"),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        outcome: dict[str, str] = trainer.fit().return_value
    except WorkerGroupError as error:
        for kind, ended in ENDS.items():
            told = [str(each) for each in error.worker_failures.values() if isinstance(each, kind)]
            if told:
                return {"outcome": ended, "error": told[0]}
        raise
    return outcome


def _train_rank(config: dict[str, Any]) -> dict[str, str]:
    setup: TrialSetup = config["setup"]
    context = ray.train.get_context()
    bring(setup, config["task"])
    trial = TuneTrial(
        setup,
        config["task"],
        send=ray.train.report,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        share=_of_rank_zero,
    )
    outcome = train(setup, config["task"], trial)
    if outcome["outcome"] == "FAILED":
        if any(sign in outcome["error"] for sign in LOST_RANK):
            raise ConnectionError(outcome["error"])
        # The other ranks wait in a collective that this one will never join: end the group with the traceback.
        raise MethodFailed(outcome["error"])
    if outcome["outcome"] == "UNSAVED":
        raise CheckpointNotWritten(outcome["error"])
    return outcome


def _of_rank_zero(verdict: Verdict) -> Verdict:
    verdicts = [verdict]
    torch.distributed.broadcast_object_list(verdicts, src=0)
    return verdicts[0]
