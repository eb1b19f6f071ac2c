"""Where the parts of a sweep meet Ray Tune: the only place that builds a Tuner."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ray import tune

from data.bucket import remove
from platform.search.scheduler import CooperativeScheduler
from platform.search.searcher import StudySearcher, TrialProcesses
from platform.search.trial_lives import TrialLives
from trainables.tune_trial import TrialSetup, build_trainable, place_for_ray


def run_trials(
    study: TrialLives, setup: TrialSetup, folder: Path, concurrency: Callable[[], int], on_step: Callable[[], None]
) -> None:
    """Run the study's trials until it proposes no more, at a time as many as `concurrency` says at the moment."""
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
            search_alg=StudySearcher(study, concurrency),
            scheduler=CooperativeScheduler(study),
            num_samples=-1,  # the study knows the budget
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",  # one an attempt
        ),
        run_config=tune.RunConfig(
            name=setup.sweep,
            storage_path=place_for_ray(folder / ".tune"),
            callbacks=[TrialProcesses(study, on_step)],
            verbose=0,
        ),
    )
    Path(setup.folder).mkdir(exist_ok=True)  # trials look for it: a node that lacks it does not share the sweep's files
    rays_own = folder / ".tune", Path(setup.folder) / ".train"
    for each in rays_own:  # of a process that was killed: Train would silently resume a run that it finds
        remove(each)
    try:
        with _quiet():
            tuner.fit()
    finally:
        for each in rays_own:
            remove(each)


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
