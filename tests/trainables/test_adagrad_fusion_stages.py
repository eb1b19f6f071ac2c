"""Pretraining, fine-tuning and distillation as one method: what each stage takes from the last, and what it trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.adagrad_fusion import AdagradFusionConfig, build_model, train
from trainables.checkpoint import save_weights
from trainables.plain_trial import PlainTrial
from trainables.seeds import Use, derive_seed
from trainables.trial import State

DATASET = tiny_dataset("multilabel")
PARAMS: dict[str, Any] = {"size": "nano", "batch_size": 32, "epochs": 2, "schedule": "constant"}
LORA: dict[str, Any] = {"tuning": "fused", "rank": 2, "bp_batch": 4}


def trained(folder: Path, **params: Any) -> tuple[State, PlainTrial]:
    trial = PlainTrial(3, folder)
    train(AdagradFusionConfig(**{**PARAMS, **params}), DATASET, trial)
    state = trial.restore()
    assert state is not None
    return state, trial


def start(**params: Any) -> State:
    """Return the weights that a trial of seed 3 starts from, where they are random."""
    torch.manual_seed(derive_seed(Use.INIT, 3))
    model = build_model(AdagradFusionConfig(**{**PARAMS, **params}), DATASET.signal, DATASET.label_set)
    return {"model": model.state_dict()}


def test_a_finetuning_starts_from_its_pretraining(tmp_path: Path) -> None:
    """With a rate that moves nothing, what LoRA leaves frozen is what pretraining left."""
    before, _ = trained(tmp_path / "pretraining", tuning="full")
    save_weights(tmp_path / "model.safetensors", before["model"])
    after, _ = trained(tmp_path / "finetuning", weights=str(tmp_path / "model.safetensors"), lr=1e-12, **LORA)
    for name in ("body.0.blocks.1.conv1.weight", "body.0.layers.0.qkv.weight", "head.hidden.weight"):
        torch.testing.assert_close(after["model"][name], before["model"][name])
    assert not torch.equal(after["model"]["head.classes.weight"], before["model"]["head.classes.weight"])


@pytest.mark.parametrize("tuning", ["full", "lora", "fused", "zo", "probe"])
def test_the_auxiliary_heads_last_layer_is_trained_and_stored_in_every_mode(tuning: str, tmp_path: Path) -> None:
    """The original leaves it random under LoRA, keeps it out of checkpoints, and weighs its loss 1 with full tuning."""
    params = {"tuning": tuning, "aux_weight": 0.5}
    if tuning in ("lora", "fused", "zo"):
        params["rank"] = 2
    after, _ = trained(tmp_path, **params)
    before = start(**params)
    name = "head.auxiliary_out.weight"
    assert not torch.equal(after["model"][name], before["model"][name])
    again = build_model(AdagradFusionConfig(**{**PARAMS, **params}), DATASET.signal, DATASET.label_set)
    again.load_state_dict(after["model"])  # strict: nothing is left out


@pytest.mark.parametrize("params", [{"tuning": "full"}, LORA], ids=["student", "teacher"])
def test_the_learning_rate_that_is_given_is_used(params: dict[str, Any], tmp_path: Path) -> None:
    """The original has 0.001 and 0.0025 in its code."""
    _, trial = trained(tmp_path, lr=7e-4, **params)
    assert {report["lr"] for report in trial.reports.values()} == {7e-4}


def test_a_student_learns_what_its_teacher_says_where_labels_weigh_nothing(tmp_path: Path) -> None:
    """The teacher was told the labels the wrong way round, and the student believes it."""
    params = {"tuning": "full", "lr": 1e-2, "epochs": 6, "cutmix_alpha": 0.0}
    teacher, trial = trained(tmp_path / "teacher", **params)
    assert trial.reports[6]["val/auroc"] > 0.9
    for name in ("head.classes.weight", "head.classes.bias"):
        teacher["model"][name].neg_()
    save_weights(tmp_path / "model.safetensors", teacher["model"])
    data = {"signal": vars(DATASET.signal), "label_set": vars(DATASET.label_set)}
    card = {"method": "adagrad_fusion", "params": {"size": "nano"}, "data": data}
    (tmp_path / "config.json").write_text(json.dumps(card))
    _, contrary = trained(tmp_path / "a", **params, teacher=str(tmp_path), hard_weight=0.0)
    _, alone = trained(tmp_path / "b", **params)
    assert contrary.reports[6]["val/auroc"] < 0.1
    assert alone.reports[6]["val/auroc"] > 0.9  # a student without a teacher trains too
