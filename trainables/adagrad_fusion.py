"""AdaGrad-Fusion: fine-tuning in little memory by fused zeroth- and first-order gradients, and distillation.

After H-Tuning (Zhou et al. 2025, PMLR 267:79548-79569) and its successor AdaGrad-Fusion. One method for all stages: a
teacher's supervised pretraining (`tuning: full`), its fine-tuning (`fused`), a student's distillation (`teacher`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import torch
from pydantic import Field
from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables import trainer
from trainables.fused_step import METRICS, FusedStep, StepConfig
from trainables.fusion_network import FusionNetwork, build_network
from trainables.fusion_objective import ObjectiveConfig, build_objective
from trainables.lora import add_lora, merged
from trainables.losses import Criterion
from trainables.method import Method
from trainables.multilabel_scores import validation_names, validation_scores
from trainables.pretrained_backbone import PretrainedConfig, load_pretrained
from trainables.seeds import Use, derive_seed
from trainables.trial import Trial

LORA_TARGETS: Final[Mapping[str, int]] = {  # the original's; q, k and v have updates of their own
    "body.*.conv1": 1,
    "body.*.conv2": 1,
    "body.*.skip": 1,
    "body.*.qkv": 3,
    "body.*.ffn1": 1,
    "body.*.ffn2": 1,
    "head.hidden": 1,
}
AUXILIARY_TARGETS: Final[Mapping[str, int]] = {"head.auxiliary_hidden": 1}
LAST_LAYERS = ("head.classes.weight", "head.auxiliary_out.weight")  # trained whole beside LoRA


class AdagradFusionConfig(StepConfig, ObjectiveConfig, PretrainedConfig):
    """The parameters of `method: adagrad_fusion`; defaults are the original's where it has them."""

    batch_size: int = Field(
        128,
        ge=1,
        description="Records an optimiser step, over all workers together.",
        json_schema_extra={"unit": "records"},
    )
    lr: float = Field(2.5e-3, gt=0, description="Peak learning rate.")
    cutmix_alpha: float = Field(
        0.75, ge=0, description="CutMix: a box of leads x time from another record; with mixup: one of them; 0: off."
    )


def build_model(config: AdagradFusionConfig, signal: Signal, label_set: LabelSet) -> FusionNetwork:
    """Build the network, ecg_BLT -> logits_BK, with LoRA where `config.tuning` trains it."""
    network = build_network(config, signal, label_set)
    choose_trained(network, config)
    return network


def choose_trained(network: FusionNetwork, config: AdagradFusionConfig) -> None:
    """Put LoRA into `network` where `config.tuning` wants it, and let just what is to train want a gradient."""
    if config.tuning == "full":
        return
    if config.tuning == "probe":
        network.body.requires_grad_(False)
        return
    targets = {**LORA_TARGETS, **AUXILIARY_TARGETS} if config.aux_weight > 0 else LORA_TARGETS
    add_lora(network, config.rank, config.alpha or config.rank, targets)
    for name, parameter in network.named_parameters():
        if name in LAST_LAYERS:
            parameter.requires_grad_(True)


def train(config: AdagradFusionConfig, dataset: Dataset, trial: Trial) -> None:
    """Train from random, pretrained or the last checkpoint's weights; see `trainables.trainer.fit`."""
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    network = build_network(config, dataset.signal, dataset.label_set)
    if trial.restore() is None:  # a resumed trial has its own weights, and may outlive the file
        load_pretrained(network, config)
    choose_trained(network, config)

    def build_step(model: nn.Module, criterion: Criterion, n_steps: int) -> FusedStep:
        assert isinstance(model, FusionNetwork)
        objective = build_objective(config, criterion, dataset, trial.device)
        return FusedStep(model, objective, config, n_steps, trial)

    more_scores = partial(validation_scores, label_set=dataset.label_set)
    trainer.fit(network, config, dataset, trial, build_step, more_scores)


def reports(task: Task) -> frozenset[str]:
    """Return the names of what is reported every epoch."""
    return trainer.reports(task) | METRICS | {f"val/{name}" for name in validation_names(task)}


ADAGRAD_FUSION = Method("adagrad_fusion", AdagradFusionConfig, build_model, train, reports, finish=merged)
