"""A trial as a group of worker processes with DistributedDataParallel, run by Ray Train inside the Tune trial."""

from __future__ import annotations

import traceback
import uuid
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

from trainables.checkpoint import CheckpointNotWritten
from trainables.tune_trial import TrialSetup, TrialTask, TuneTrial, train


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
            storage_path=str(Path(setup.folder).absolute() / ".train"),
            callbacks=[TuneReportCallback()],  # type: ignore[list-item]
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        outcome: dict[str, str] = trainer.fit().return_value
    except WorkerGroupError as error:
        raised = [e for e in error.worker_failures.values() if isinstance(e, UserExceptionWithTraceback)]
        if not raised:
            raise
        unsaved = [str(e._base_exc) for e in raised if isinstance(e._base_exc, CheckpointNotWritten)]
        if unsaved:
            return {"outcome": "UNSAVED", "error": unsaved[0]}
        return {"outcome": "FAILED", "error": traceback.format_exc()}
    return outcome


def _train_rank(config: dict[str, Any]) -> dict[str, str]:
    setup: TrialSetup = config["setup"]
    context = ray.train.get_context()
    trial = TuneTrial(
        setup,
        config["task"],
        send=ray.train.report,
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
    )
    outcome = train(setup, config["task"], trial)
    if outcome["outcome"] == "FAILED":
        # The other ranks wait in a collective that this one will never join: end the group with the traceback.
        raise RuntimeError(outcome["error"])
    if outcome["outcome"] == "UNSAVED":
        raise CheckpointNotWritten(outcome["error"])
    return outcome
