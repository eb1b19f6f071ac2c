"""The pretraining loop that all criteria share.

A criterion's loss is a weighted sum of parts, each a sum over tokens (or records) divided by a count. The counts are
known before the forward pass and added over all workers first, so a step follows the loss of the whole batch, however
many workers share it. Everything random follows from (trial's seed, epoch, record): a resumed trial goes on exactly.

B: records, P: parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from data.dataset import Batch, Dataset, Split
from trainables.early_stopping import EarlyStopping
from trainables.memory import PeakMemory
from trainables.optimisation import LearningRate, build_optimizer
from trainables.pretraining.config import PretrainConfig
from trainables.pretraining.masks import RecordStreams
from trainables.pretraining.regularisation import Regularisation
from trainables.ranks import across_ranks, sum_over_ranks
from trainables.seeds import Use, derive_seed
from trainables.trial import State, Trial

Role = Literal["train", "val"]


class Part(NamedTuple):
    """One part of a criterion: its name in the reports, and its weight in the loss (0: only reported)."""

    name: str
    weight: float


class Prepared(NamedTuple):
    """A batch for `PretrainModel.parts`, and what each part's sum is divided by; 0: it is not computed."""

    inputs: tuple[Tensor | None, ...]
    counts_P: Tensor
    n_tokens: int


Prepare = Callable[[Batch, Role, RecordStreams], Prepared]


class PretrainModel(Protocol):
    """An `nn.Module` whose `forward` embeds records (ecg_BLT -> embeddings_BH) and whose `parts` its criterion sums."""

    criterion: Sequence[Part]

    def parts(self, *inputs: Tensor | None) -> Tensor:
        """Return sums_P of one worker's share of a batch, float32."""

    def begin_step(self, step: int) -> None:
        """Take note of the optimiser step, from 0, that comes next."""

    def set_dropout(self, dropout: float) -> None:
        """Set every dropout that `config.dropout` sets."""


class _Parts(nn.Module):
    """What workers' gradients are exchanged through: `forward` is the model's `parts`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor | None) -> Tensor:
        wave = inputs[0]
        if wave is not None and len(wave) == 0:  # a worker without a share of the last batch, whom the others wait for
            stand_ins = [None if tensor is None else tensor.new_zeros(1, *tensor.shape[1:]) for tensor in inputs]
            no_sums_P: Tensor = 0 * self.model.parts(*stand_ins)
            return no_sums_P
        sums_P: Tensor = self.model.parts(*inputs)
        return sums_P


def report_names(criterion: Sequence[Part], extra: Sequence[str] = ()) -> frozenset[str]:
    """Return the names of what `pretrain` reports every epoch."""
    own = {"train/loss", "val/loss", "lr", "epoch_s", "tokens_per_s", "peak_memory_bytes"}
    own |= {"process_peak_bytes", "parameters", "weight_decay", "dropout"}
    return frozenset(own | {f"{role}/{part.name}" for role in ("train", "val") for part in criterion} | set(extra))


def pretrain(
    model: Any,
    prepare: Prepare,
    config: PretrainConfig,
    dataset: Dataset,
    trial: Trial,
    constants: dict[str, float] | None = None,
) -> None:
    """Train `model` (a `PretrainModel`) until `config.epochs`, early stopping or `TrialStopped`.

    Every epoch is reported: the loss and each part on training and validation records, whose masks are the same in
    every epoch; and `constants`.

    Raises:
        ValueError: a split has no records, or epochs is not set.
        FloatingPointError: a loss is not finite.
        TrialStopped: from `trial.report`.
    """
    learner = _Learner.build(model.to(trial.device), config, dataset, trial)
    first_epoch = learner.restore(trial.restore()) + 1
    forward = across_ranks(_Parts(model), trial)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    with PeakMemory(trial.device, held=model.state_dict().values()) as memory:
        for epoch in range(first_epoch, learner.epochs + 1):
            if learner.stopping.stopped:
                return
            start_s = time.perf_counter()
            learner.regularisation.apply(model, learner.optimizer)
            train, lr, n_tokens = _train_epoch(learner, forward, prepare, dataset, trial, epoch, memory)
            train_s = time.perf_counter() - start_s
            with memory.counting("validation"):
                val = _validate(learner, forward, prepare, dataset.val, trial)
            metrics = {
                **{f"train/{name}": value for name, value in train.items()},
                **{f"val/{name}": value for name, value in val.items()},
                **(constants or {}),
                "lr": lr,
                "weight_decay": learner.regularisation.weight_decay,
                "dropout": learner.regularisation.dropout,
                "epoch_s": time.perf_counter() - start_s,
                "tokens_per_s": n_tokens / train_s,
                "peak_memory_bytes": float(memory.peak_bytes),
                "process_peak_bytes": float(memory.process_peak_bytes),
                "parameters": float(n_parameters),
            }
            learner.end_epoch(train["loss"], val["loss"])
            trial.report(epoch, metrics, partial(learner.state, epoch))


@dataclass
class _Learner:
    """What training changes, and what it follows."""

    config: PretrainConfig
    epochs: int
    model: Any
    weight_P: Tensor  # of the parts in the loss, on the model's device
    optimizer: Optimizer
    lr: LearningRate
    stopping: EarlyStopping
    regularisation: Regularisation

    @staticmethod
    def build(model: Any, config: PretrainConfig, dataset: Dataset, trial: Trial) -> _Learner:
        for name, split in {"training": dataset.train, "validation": dataset.val}.items():
            if split.n_records == 0:
                raise ValueError(f"the {name} split has no records; check the folds")
        if config.epochs is None:
            raise ValueError("epochs is not set; give `budget.epochs` in a search space, or `epochs` in a plain run")
        return _Learner(
            config=config,
            epochs=config.epochs,
            model=model,
            weight_P=torch.tensor([part.weight for part in model.criterion], device=trial.device),
            optimizer=build_optimizer(config, model),
            lr=LearningRate(config, -(-dataset.train.n_records // config.batch_size), config.epochs),
            stopping=EarlyStopping.from_config(config),
            regularisation=Regularisation(config),
        )

    def end_epoch(self, train_loss: float, val_loss: float) -> None:
        self.lr.end_epoch(val_loss)
        self.stopping.end_epoch(train_loss, val_loss)
        self.regularisation.end_epoch(val_loss)

    def state(self, epoch: int) -> State:
        return {
            "epoch": epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr": self.lr.state(),
            "stopping": self.stopping.state(),
            "regularisation": self.regularisation.state(),
            "thresholds": [],
        }

    def restore(self, state: State | None) -> int:
        """Take up `state`, and return how many epochs it has behind it."""
        if state is None:
            return 0
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr.load(state["lr"])
        self.stopping.load(state["stopping"])
        self.regularisation.load(state["regularisation"])
        return int(state["epoch"])


def _train_epoch(
    learner: _Learner,
    forward: nn.Module,
    prepare: Prepare,
    dataset: Dataset,
    trial: Trial,
    epoch: int,
    memory: PeakMemory,
) -> tuple[dict[str, float], float, int]:
    """Train on every record once; return the mean loss and parts, the last learning rate and the tokens seen."""
    torch.manual_seed(derive_seed(Use.FORWARD, trial.seed, epoch, trial.rank))
    forward.train()
    seed = derive_seed(Use.SHUFFLE, trial.seed, epoch)
    batches = dataset.train.batches(
        learner.config.batch_size, shuffle_seed=seed, rank=trial.rank, world_size=trial.world_size
    )
    streams = RecordStreams.of_epoch(trial.seed, epoch)
    totals, lr, n_tokens, step = [], 0.0, 0, (epoch - 1) * learner.lr.steps_per_epoch
    for number, batch in enumerate(batches, start=step):
        prepared = _on_device(prepare(batch, "train", streams), trial)
        lr = learner.lr.apply(learner.optimizer, number)
        learner.model.begin_step(number)
        with memory.counting("step"):
            totals.append(_train_step(learner, forward, prepared, trial.world_size))
        n_tokens += prepared.n_tokens
    totals_SP2 = sum_over_ranks(torch.stack(totals), trial.world_size)
    tokens = sum_over_ranks(torch.tensor(float(n_tokens), device=trial.device), trial.world_size)
    return _means(learner.model.criterion, totals_SP2, f"training, epoch {epoch}"), lr, int(tokens)


def _train_step(learner: _Learner, forward: nn.Module, prepared: Prepared, world_size: int) -> Tensor:
    """Follow the gradient of the batch's loss; return each part's own sum and its count of this worker, (P, 2)."""
    counts_P = sum_over_ranks(prepared.counts_P, world_size)
    learner.optimizer.zero_grad()
    with _autocast(learner, prepared):
        sums_P = forward(*prepared.inputs)
    # times world_size, as gradients are averaged over the workers
    loss = (learner.weight_P * sums_P.float() / counts_P.clamp(min=1)).sum()
    (loss * world_size).backward()
    if learner.config.clip_norm is not None:
        nn.utils.clip_grad_norm_(learner.model.parameters(), learner.config.clip_norm)
    learner.optimizer.step()
    return torch.stack([sums_P.detach().float(), prepared.counts_P], dim=1)


def _validate(learner: _Learner, forward: nn.Module, prepare: Prepare, split: Split, trial: Trial) -> dict[str, float]:
    """Return the mean loss and parts over all validation records, the same in every epoch but for the weights."""
    forward.eval()
    torch.manual_seed(derive_seed(Use.FORWARD, trial.seed, 0, trial.rank))
    streams = RecordStreams.of_epoch(trial.seed, 0)
    totals = []
    with torch.no_grad():
        for batch in split.batches(learner.config.batch_size, rank=trial.rank, world_size=trial.world_size):
            prepared = _on_device(prepare(batch, "val", streams), trial)
            with _autocast(learner, prepared):
                sums_P = learner.model.parts(*prepared.inputs)
            totals.append(torch.stack([sums_P.float(), prepared.counts_P], dim=1))
    totals_SP2 = sum_over_ranks(torch.stack(totals), trial.world_size)
    return _means(learner.model.criterion, totals_SP2, "validation")


def _autocast(learner: _Learner, prepared: Prepared) -> torch.autocast:
    return torch.autocast(prepared.counts_P.device.type, torch.bfloat16, enabled=learner.config.precision == "bf16")


def _on_device(prepared: Prepared, trial: Trial) -> Prepared:
    inputs = (None if tensor is None else tensor.to(trial.device, non_blocking=True) for tensor in prepared.inputs)
    return Prepared(tuple(inputs), prepared.counts_P.to(trial.device), prepared.n_tokens)


def _means(criterion: Sequence[Part], totals_SP2: Tensor, where: str) -> dict[str, float]:
    """Return the loss and the parts over an epoch; looked at once, as a look at every step would make a GPU wait."""
    sums_P, counts_P = totals_SP2.double().sum(dim=0).unbind(dim=1)
    if not sums_P.isfinite().all():
        raise FloatingPointError(f"the loss is not finite in {where}; try a smaller lr")
    means = (sums_P / counts_P.clamp(min=1)).tolist()
    loss = sum(part.weight * mean for part, mean in zip(criterion, means, strict=True))
    return {"loss": loss, **{part.name: mean for part, mean in zip(criterion, means, strict=True)}}
