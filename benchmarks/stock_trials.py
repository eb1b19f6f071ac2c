"""The same no-op trials without this platform: `python -m benchmarks.stock_trials NAME N_TRIALS FOLDER`.

Each is written as its project's documentation shows it. Only what `trial_overhead` compares stands here, so
nothing of the platform is imported.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import optuna
import ray
import ray.train
import torch
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.tune import ResultGrid
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from benchmarks.noop import N_REPORTS, values

N_SLOTS: Final = 2
N_INPUTS: Final = 1250  # as wide as the record that the platform's own no-op model takes


def train_function(config: dict[str, Any]) -> None:
    """Train nothing as a Tune function trial."""
    for epoch, value in values(config["x"]):
        tune.report({"auroc": value, "epoch": epoch})


def train_with_checkpoints(config: dict[str, Any]) -> None:
    """Train nothing as a Tune function trial that saves a checkpoint with every report."""
    model = torch.nn.Linear(N_INPUTS, 1)
    for epoch, value in values(config["x"]):
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder) / "model.pt")
            tune.report({"auroc": value, "epoch": epoch}, checkpoint=tune.Checkpoint.from_directory(folder))


def run_function(n_trials: int, folder: Path) -> None:
    """Run plain Tune: a function trial with random search, all else as Tune comes."""
    _fit(
        train_function,
        folder,
        tune_config=tune.TuneConfig(num_samples=n_trials, max_concurrent_trials=N_SLOTS),
    )


def run_joined(n_trials: int, folder: Path) -> None:
    """Run the stock pieces joined: OptunaSearch on SQLite, ASHA, the MLflow callback, checkpoints, reused processes."""
    search = OptunaSearch(
        metric="auroc",
        mode="max",
        sampler=TPESampler(seed=0),
        study_name="stock",
        storage=RDBStorage(f"sqlite:///{folder}/study.db"),
    )
    _fit(
        train_with_checkpoints,
        folder,
        tune_config=tune.TuneConfig(
            num_samples=n_trials,
            max_concurrent_trials=N_SLOTS,
            search_alg=search,
            scheduler=ASHAScheduler(
                time_attr="epoch", metric="auroc", mode="max", max_t=N_REPORTS, stop_last_trials=False
            ),
            reuse_actors=True,
        ),
        callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="stock")],
    )


def run_torch_trainer(n_trials: int, folder: Path) -> None:
    """Run Ray's recipe for Tune with Train: each trial drives a `TorchTrainer` with a worker group of one."""

    def train_on_worker(config: dict[str, Any]) -> None:
        for epoch, value in values(config["x"]):
            ray.train.report({"auroc": value, "epoch": epoch})

    def drive(config: dict[str, Any]) -> None:
        TorchTrainer(
            train_on_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(
                name=f"train-trial_id={tune.get_context().get_trial_id()}",
                storage_path=str(folder / "train"),
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # Ray types it as Train's
            ),
        ).fit()

    # A driver and its worker take a CPU each; more drivers than this would leave none to the workers.
    n_slots = min(N_SLOTS, max(1, int(ray.cluster_resources()["CPU"]) // 2))
    _fit(drive, folder, tune_config=tune.TuneConfig(num_samples=n_trials, max_concurrent_trials=n_slots))


def run_optuna(n_trials: int, folder: Path) -> None:
    """Run Optuna's own loop on SQLite, trials one after another in this process."""

    def objective(trial: optuna.Trial) -> float:
        last = 0.0
        for epoch, last in values(trial.suggest_float("x", 0.0, 1.0)):
            trial.report(last, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return last

    study = optuna.create_study(
        storage=f"sqlite:///{folder}/study.db", direction="maximize", sampler=TPESampler(seed=0)
    )
    study.optimize(objective, n_trials=n_trials)
    n_reports = [len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False)]
    if n_reports != [N_REPORTS] * n_trials:  # the median rule may end a trial, at its last report only
        raise RuntimeError(f"asked for {n_trials} trials of {N_REPORTS} reports, got {n_reports}")


RUNS: Final[Mapping[str, Callable[[int, Path], None]]] = {
    "function": run_function,
    "joined": run_joined,
    "torch_trainer": run_torch_trainer,
    "optuna": run_optuna,
}


def _fit(trainable: Callable[[dict[str, Any]], None], folder: Path, **settings: Any) -> None:
    callbacks = settings.pop("callbacks", None)
    results = tune.Tuner(
        trainable,
        param_space={"x": tune.uniform(0.0, 1.0)},
        run_config=tune.RunConfig(name="stock", storage_path=str(folder / "tune"), callbacks=callbacks),
        **settings,
    ).fit()
    _check(results, settings["tune_config"].num_samples)


def _check(results: ResultGrid, n_trials: int) -> None:
    """Refuse a run that did less than was asked: its time would say nothing."""
    epochs = [(results[index].metrics or {}).get("epoch") for index in range(len(results))]
    if results.num_errors or epochs != [N_REPORTS] * n_trials:
        raise RuntimeError(f"asked for {n_trials} trials of {N_REPORTS} reports, got {epochs}: {results.errors}")


def main() -> None:
    """Run the trials that the command line names."""
    name, n_trials, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]).absolute()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if name != "optuna":
        ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR)
    RUNS[name](n_trials, folder)


if __name__ == "__main__":
    main()
