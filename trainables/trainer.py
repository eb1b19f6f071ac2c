"""The training loop that all methods share.

B: records of a batch (over all ranks together), L: leads, T: timesteps, K: outputs.

Exactness, which the tests hold it to:
- Everything random follows from (trial's seed, epoch, ...), so a resumed trial continues bit for bit.
- A step follows the mean loss over the whole batch, however it is cut into ranks and pieces: each piece's
  sum of losses is divided by the batch's total weight, which all ranks agree on before the first forward pass
  (`trainables.back_propagation`, or a method's own `trainables.step.Step`).
- Batch norm sees what one rank computes at once (on GPUs: what all ranks do). It cannot be trained on
  fewer than two records; such a piece goes through it with the running statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.dataset import Batch, Dataset, Task
from trainables.augmentation import RecordSeeds, augment_records, mix_records
from trainables.back_propagation import BackPropagation
from trainables.config import TrainConfig, check_config
from trainables.early_stopping import EarlyStopping
from trainables.evaluation import Evaluation, assess, predict
from trainables.losses import Criterion, build_criterion, targets_from_labels
from trainables.memory import PeakMemory
from trainables.metrics import import_torchmetrics, macro_names
from trainables.optimisation import LearningRate, build_optimizer
from trainables.ranks import share_buffers, sum_over_ranks, synchronise_batch_norm
from trainables.seeds import Use, derive_seed
from trainables.standardise import fit_output_units
from trainables.step import BuildStep, Step
from trainables.trial import State, Trial

OWN = {
    *("train/loss", "val/loss", "val/classes_left_out", "lr", "epoch_s", "parameters", "trainable_parameters"),
    *("peak_memory_bytes", "process_peak_bytes"),
}
Scores = Callable[[Evaluation], Mapping[str, float]]


def no_more_scores(evaluation: Evaluation) -> Mapping[str, float]:
    """Return nothing: a method's own validation metrics, where it has none."""
    return {}


def fit(
    model: nn.Module,
    config: TrainConfig,
    dataset: Dataset,
    trial: Trial,
    build_step: BuildStep | None = None,
    more_scores: Scores = no_more_scores,
) -> None:
    """Train `model` in place until `config.epochs`, early stopping or `TrialStopped`, reporting every epoch.

    Starts from the trial's last checkpoint where it has one. Reports the numbers that `reports` names. The state
    given to `trial.report` holds the live tensors: save it or copy it before the next epoch.

    Args:
        build_step: builds what finds each step's gradient and adds to the reports; None: back-propagation.
        more_scores: of each epoch's answers on validation; reported as `val/<name>` beside the others.

    Raises:
        ValueError: `config` does not fit the data set, or a split has no records.
        FloatingPointError: a training loss or a validation answer is not finite.
        TrialStopped: from `trial.report`.
    """
    learner = _Learner.build(model, config, dataset, trial, build_step)
    first_epoch = learner.restore(trial.restore()) + 1
    import_torchmetrics()
    with PeakMemory(trial.device, held=learner.model.state_dict().values()) as memory:
        for epoch in range(first_epoch, learner.epochs + 1):
            if learner.stopping.stopped:
                return
            start_s = time.perf_counter()
            train_loss, lr = _train_epoch(learner, dataset, trial, epoch, memory)
            with memory.counting("validation"):
                val_loss, evaluation = _validate(learner, dataset, trial, epoch)
            learner.end_epoch(train_loss, val_loss)
            metrics = {
                "train/loss": train_loss,
                "val/loss": val_loss,
                **_flat(evaluation),
                **{f"val/{name}": value for name, value in more_scores(evaluation).items()},
                "lr": lr,
                "epoch_s": time.perf_counter() - start_s,
                "peak_memory_bytes": float(memory.peak_bytes),
                "process_peak_bytes": float(memory.process_peak_bytes),
                "parameters": float(learner.n_parameters),
                "trainable_parameters": float(learner.n_trainable),
                **learner.step.metrics(),
            }
            trial.report(epoch, metrics, partial(learner.state, epoch, evaluation))


def reports(task: Task) -> frozenset[str]:
    """Return the names of what `fit` reports every epoch; a metric that the validation records leave undefined is
    absent from a report."""
    scores = {f"val/{name}" for name in macro_names(task)}
    return frozenset(scores | OWN)


@dataclass
class _Learner:
    """What training changes, and what it follows."""

    config: TrainConfig
    epochs: int
    model: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    lr: LearningRate
    stopping: EarlyStopping
    step: Step

    @staticmethod
    def build(
        model: nn.Module, config: TrainConfig, dataset: Dataset, trial: Trial, build_step: BuildStep | None
    ) -> _Learner:
        epochs = _checked_epochs(config, dataset)
        labels_NK = dataset.train.labels_NK
        if dataset.label_set.task == "regression":
            fit_output_units(model, labels_NK)
        model = synchronise_batch_norm(model.to(trial.device), trial)
        criterion = build_criterion(config, dataset.label_set, labels_NK).to(trial.device)
        lr = LearningRate(config, -(-dataset.train.n_records // config.batch_size), epochs)
        if build_step is None:
            step: Step = BackPropagation(model, criterion, config, trial)
        else:
            step = build_step(model, criterion, lr.steps_per_epoch * epochs)
        return _Learner(
            config=config,
            epochs=epochs,
            model=model,
            criterion=criterion,
            optimizer=build_optimizer(config, model, step.lr_scale),
            lr=lr,
            stopping=EarlyStopping.from_config(config),
            step=step,
        )

    @property
    def n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def n_trainable(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

    def end_epoch(self, train_loss: float, val_loss: float) -> None:
        self.lr.end_epoch(val_loss)
        self.stopping.end_epoch(train_loss, val_loss)

    def state(self, epoch: int, evaluation: Evaluation) -> State:
        return {
            "epoch": epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr": self.lr.state(),
            "stopping": self.stopping.state(),
            "step": self.step.state(),
            "thresholds": evaluation.thresholds_K.tolist(),
        }

    def restore(self, state: State | None) -> int:
        """Take up `state`, and return how many epochs it has behind it."""
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr.load(state["lr"])
        self.stopping.load(state["stopping"])
        self.step.load(state["step"])
        return int(state["epoch"])


def _checked_epochs(config: TrainConfig, dataset: Dataset) -> int:
    check_config(config, dataset.signal, dataset.label_set)
    for name, split in {"training": dataset.train, "validation": dataset.val}.items():
        if split.n_records == 0:
            raise ValueError(f"the {name} split has no records; check the folds and the label set")
    if config.epochs is None:
        raise ValueError("epochs is not set; give `budget.epochs` in a search space, or `epochs` in a plain run")
    return config.epochs


def _train_epoch(
    learner: _Learner, dataset: Dataset, trial: Trial, epoch: int, memory: PeakMemory
) -> tuple[float, float]:
    """Train on every record once; return the mean training loss and the last learning rate."""
    torch.manual_seed(derive_seed(Use.FORWARD, trial.seed, epoch, trial.rank))
    learner.model.train()
    batches = dataset.train.batches(
        learner.config.batch_size,
        shuffle_seed=derive_seed(Use.SHUFFLE, trial.seed, epoch),
        rank=trial.rank,
        world_size=trial.world_size,
    )
    sums, lr = [], 0.0
    prepared = _prepared(batches, learner, dataset, trial, epoch)
    for number, (ecg_BLT, targets_BK) in enumerate(prepared, start=(epoch - 1) * learner.lr.steps_per_epoch):
        lr = learner.lr.apply(learner.optimizer, number)
        with memory.counting("step"):
            sums.append(_train_step(learner, ecg_BLT, targets_BK, number))
    return _mean_loss(sum_over_ranks(torch.stack(sums), trial.world_size), epoch), lr


def _train_step(learner: _Learner, ecg_BLT: Tensor, targets_BK: Tensor, number: int) -> Tensor:
    """Follow a batch's gradient; return the sum of its losses and its weight."""
    learner.optimizer.zero_grad()
    sums = learner.step.gradient(ecg_BLT, targets_BK, number)
    if learner.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.config.clip_norm)
    learner.optimizer.step()
    learner.step.after(number)
    return sums


def _prepared(
    batches: Iterator[Batch], learner: _Learner, dataset: Dataset, trial: Trial, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented ecg_BLT and targets_BK on the trial's device."""
    config, seeds = learner.config, RecordSeeds.of_epoch(trial.seed, epoch)
    for number, batch in enumerate(batches):
        ecg_BLT = augment_records(batch, config, dataset.signal.fs_hz, seeds)
        targets_BK = targets_from_labels(batch.labels_BK, dataset.label_set).numpy()
        targets_BK = learner.step.targets(targets_BK, batch.index_B)
        ecg_BLT, targets_BK = mix_records(ecg_BLT, targets_BK, config, trial.seed, epoch, number, trial.rank)
        yield _to_device(ecg_BLT, trial.device), _to_device(targets_BK, trial.device)


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _mean_loss(sums_S2: Tensor, epoch: int) -> float:
    """Return the epoch's mean loss from each step's (sum, weight), the same on every rank.

    Looked at once an epoch: a look at every step would make a GPU wait for it.
    """
    finite_S = sums_S2[:, 0].isfinite()
    if not finite_S.all():
        batch = int((~finite_S).nonzero()[0]) + 1
        raise FloatingPointError(f"the training loss is not finite in epoch {epoch}, batch {batch}; try a smaller lr")
    loss, weight = sums_S2.double().sum(dim=0).tolist()
    return float(loss / max(weight, 1e-12))


def _validate(learner: _Learner, dataset: Dataset, trial: Trial, epoch: int) -> tuple[float, Evaluation]:
    """Return the validation loss and the metrics over all ranks' records, the same on every rank."""
    share_buffers(learner.model, trial.world_size)
    ranks = {"rank": trial.rank, "world_size": trial.world_size}
    config, label_set = learner.config, dataset.label_set
    own_NK = predict(learner.model, dataset.val, config, label_set, trial.device, config.batch_size, **ranks)
    logits_NK = sum_over_ranks(torch.from_numpy(own_NK).to(trial.device), trial.world_size)
    if not logits_NK.isfinite().all():
        raise FloatingPointError(f"the validation answers are not finite after epoch {epoch}; try a smaller lr")
    labels_NK = dataset.val.labels_NK
    loss = learner.criterion.mean(logits_NK, targets_from_labels(labels_NK, label_set).to(trial.device))
    return loss, assess(logits_NK.cpu().numpy(), labels_NK, config, label_set)


def _flat(evaluation: Evaluation) -> dict[str, float]:
    scores = {f"val/{name}": value for name, value in evaluation.scores.macro.items()}
    return {**scores, "val/classes_left_out": float(len(evaluation.scores.left_out))}
