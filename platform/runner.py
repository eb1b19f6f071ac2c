"""Where the parts of a sweep meet Ray: the only place that starts Ray and builds a Tuner."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray import tune

from platform.scheduler import CooperativeScheduler
from platform.searcher import StudySearcher, TrialStarts
from platform.spec_sections import ResourcesSpec
from platform.trial_lives import TrialLives
from trainables.tune_trial import TrialSetup, build_trainable

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our journal replaces CSV, JSON and TensorBoard files
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the trial itself checks that it reports the objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: Tune's would kill trials
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshot is never restored
    "TUNE_WARN_THRESHOLD_S": "5",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # the default of 2 s makes every report of a worker group wait
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_cluster() -> Iterator[None]:
    """Use the cluster that this process is connected to, or start one here and stop it afterwards."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    # The dashboard stays on: Ray Train frees a stopped worker group's CPUs through its state API.
    ray.init(log_to_driver=False, logging_level=logging.ERROR, dashboard_host="127.0.0.1")
    try:
        yield
    finally:
        ray.shutdown()


def concurrency(resources: ResourcesSpec) -> int:
    """Return how many trials fit on the cluster at once.

    Raises:
        ValueError: not even one fits.
    """
    available = ray.cluster_resources()
    group_size = max(1, resources.workers)
    fits = int(available.get("CPU", 0) / (group_size * resources.cpus) + 1e-9)  # 2 // 0.2 is 9
    if resources.gpus:
        fits = min(fits, int(available.get("GPU", 0) / (group_size * resources.gpus) + 1e-9))
    if fits < 1:
        raise ValueError(
            f"resources: a trial needs {group_size * resources.cpus:g} CPUs and {group_size * resources.gpus:g} GPUs, "
            f"but the cluster has {available.get('CPU', 0):g} and {available.get('GPU', 0):g}; "
            "lower resources.workers, cpus or gpus"
        )
    return min(fits, resources.concurrency or fits)


def run_trials(study: TrialLives, setup: TrialSetup, folder: Path, on_step: Callable[[], None]) -> None:
    """Run the study's trials until it proposes no more."""
    resources = study.spec.resources
    if setup.workers:
        # The driver of a worker group takes no CPU, or drivers would starve the workers; Tune refuses an
        # empty request, so it asks for a crumb of the head node.
        request: dict[str, float] = {"cpu": 0, "node:__internal_head__": 0.001}
    else:
        request = {"cpu": resources.cpus, "gpu": resources.gpus}
    trainable = build_trainable(setup)
    trainable.__name__ = f"trial_of_{setup.sweep}"  # Tune finds trainables by name: two sweeps on a cluster differ
    tuner = tune.Tuner(
        tune.with_resources(trainable, request),
        tune_config=tune.TuneConfig(
            search_alg=StudySearcher(study),
            scheduler=CooperativeScheduler(study),
            num_samples=-1,  # the study knows the budget
            max_concurrent_trials=concurrency(resources),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        ),
        run_config=tune.RunConfig(
            name=setup.sweep,
            storage_path=str(folder.absolute() / ".tune"),
            callbacks=[TrialStarts(study, on_step)],
            verbose=0,
        ),
    )
    rays_own = folder / ".tune", Path(setup.folder) / ".train"
    _remove(rays_own)  # of a process that was killed: Train would silently resume a run that it finds
    try:
        with _quiet():
            tuner.fit()
    finally:
        _remove(rays_own)


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Tune's log lines off the live view; trials' errors are in the journal and in MLflow."""
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        try:
            yield
        finally:
            logger.setLevel(level)
