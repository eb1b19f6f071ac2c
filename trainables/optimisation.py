"""Optimisers and learning-rate schedules. A schedule is a pure function of the step, `plateau` alone remembers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from trainables.config import LoopConfig

ONE_CYCLE_RISE = 0.3  # share of the steps, and the rates it starts and ends at (Smith and Topin 2019, as in fastai)
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = 1e-5
LINEAR_RISE = 0.08  # HuBERT-ECG's


def _unscaled(name: str) -> float:
    return 1.0


def build_optimizer(config: LoopConfig, model: nn.Module, lr_scale: Callable[[str], float] = _unscaled) -> Optimizer:
    """Build the optimiser over the parameters that want a gradient; decay spares biases and norms.

    Args:
        lr_scale: a parameter's name -> what its learning rate is multiplied by.
    """
    groups = _parameter_groups(config, model, lr_scale)
    adam: dict[str, Any] = {"betas": (0.9, config.beta2), "eps": config.adam_eps}
    # Fused: one kernel for all parameters instead of a Python loop over them.
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=True, **adam)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=config.lr, fused=True, **adam)
    if config.optimizer == "nadam":
        return torch.optim.NAdam(groups, lr=config.lr, decoupled_weight_decay=True, **adam)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    return torch.optim.RMSprop(groups, lr=config.lr, momentum=config.momentum)


def _parameter_groups(config: LoopConfig, model: nn.Module, lr_scale: Callable[[str], float]) -> list[dict[str, Any]]:
    wanted = [(lr_scale(name), p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": params, "weight_decay": decay, "lr_scale": scale}
        for scale in dict.fromkeys(scale for scale, _ in wanted)
        for decay, is_decayed in ((config.weight_decay, True), (0.0, False))
        if (params := [p for own, p in wanted if own == scale and (p.ndim > 1) == is_decayed])
    ]


@dataclass
class LearningRate:
    """The learning rate of every optimiser step; `scale`, `best` and `stale` belong to the plateau schedule."""

    config: LoopConfig
    steps_per_epoch: int
    epochs: int
    scale: float = 1.0
    best: float = math.inf
    stale: int = 0

    def at(self, step: int) -> float:
        """Return the rate of optimiser step `step`, counted from 0 over the whole training."""
        warmup = _warmup(step, self.config.warmup_epochs * self.steps_per_epoch)
        shape = _SHAPES[self.config.schedule](self, step)
        return self.config.lr * warmup * shape

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set the rate of `step` in `optimizer`, times each group's `lr_scale`; returns it without that."""
        lr = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        return lr

    def end_epoch(self, val_loss: float) -> None:
        """Take the validation loss of an epoch into account; only the plateau schedule minds."""
        if self.config.schedule != "plateau":
            return
        if val_loss < self.best:
            self.best, self.stale = val_loss, 0
            return
        self.stale += 1
        if self.stale >= self.config.decay_epochs:
            self.scale, self.stale = self.scale * self.config.decay_factor, 0

    def state(self) -> dict[str, float]:
        return {"scale": self.scale, "best": self.best, "stale": self.stale}

    def load(self, state: dict[str, float]) -> None:
        self.scale, self.best, self.stale = state["scale"], state["best"], int(state["stale"])


def _warmup(step: int, warmup_steps: float) -> float:
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps > 0 else 1.0


def _cosine(share: float) -> float:
    return (1 + math.cos(math.pi * min(1.0, share))) / 2


def _cosine_shape(rate: LearningRate, step: int) -> float:
    warmup_steps = rate.config.warmup_epochs * rate.steps_per_epoch
    total = rate.epochs * rate.steps_per_epoch
    return _cosine(max(0.0, step - warmup_steps) / (total - warmup_steps))


def _linear_shape(rate: LearningRate, step: int) -> float:
    total = rate.epochs * rate.steps_per_epoch
    rise = max(1.0, LINEAR_RISE * total)
    return min((step + 1) / rise, (total - step) / max(1.0, total - rise))


def _one_cycle_shape(rate: LearningRate, step: int) -> float:
    share = step / (rate.epochs * rate.steps_per_epoch)
    if share < ONE_CYCLE_RISE:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - _cosine(share / ONE_CYCLE_RISE))
    fall = (share - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return ONE_CYCLE_END + (1 - ONE_CYCLE_END) * _cosine(fall)


def _step_shape(rate: LearningRate, step: int) -> float:
    epoch = step // rate.steps_per_epoch
    return float(rate.config.decay_factor ** (epoch // rate.config.decay_epochs))


_SHAPES: dict[str, Callable[[LearningRate, int], float]] = {
    "constant": lambda rate, step: 1.0,
    "cosine": _cosine_shape,
    "linear": _linear_shape,
    "one_cycle": _one_cycle_shape,
    "step": _step_shape,
    "plateau": lambda rate, step: rate.scale,
}
