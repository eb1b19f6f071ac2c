"""AdaGrad-Fusion's step: what it trains, and its gradients against back-propagation of the same records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from data.dataset import LabelSet, Signal
from tests.trainables.tiny_dataset import tiny_dataset
from trainables.adagrad_fusion import AdagradFusionConfig, build_model, train
from trainables.batch_norm import norms_of
from trainables.checkpoint import load_checkpoint
from trainables.fused_step import FusedStep
from trainables.fusion_coefficient import fuse
from trainables.fusion_objective import build_objective
from trainables.losses import build_criterion
from trainables.plain_trial import CHECKPOINT_FILE, PlainTrial
from trainables.seeds import Use, derive_seed
from trainables.trial import TrialStopped
from trainables.zeroth_order import Direction

DATASET = tiny_dataset("multilabel", n_train=24, n_val=16, n_timesteps=256)
SMALL: dict[str, Any] = {"size": "nano", "rank": 4, "bp_batch": 4, "batch_size": 24, "cutmix_alpha": 0.0}


def build_step(**params: Any) -> tuple[FusedStep, Tensor, Tensor]:
    """Return a step whose network has moved off LoRA's zeros, and the batch of all records."""
    torch.manual_seed(0)
    config = AdagradFusionConfig(**{**SMALL, **params})
    network = build_model(config, DATASET.signal, DATASET.label_set)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
        for norm in norms_of(network):
            norm.running_mean.normal_(std=0.1)
    criterion = build_criterion(config, DATASET.label_set, DATASET.train.labels_NK)
    objective = build_objective(config, criterion, DATASET, "cpu")
    step = FusedStep(network, objective, config, n_steps=10, trial=PlainTrial(7))
    batch = next(DATASET.train.batches(24))
    return step, torch.from_numpy(batch.ecg_BLT), torch.from_numpy(step.targets(batch.labels_BK, batch.index_B))


def gradients(step: FusedStep, ecg_BLT: Tensor, targets_BJ: Tensor, number: int = 0) -> dict[str, Tensor]:
    step.network.zero_grad()
    step.gradient(ecg_BLT, targets_BJ, number)
    return {name: p.grad.clone() for name, p in step.network.named_parameters() if p.grad is not None}


def back_propagated(step: FusedStep, ecg_BLT: Tensor, targets_BJ: Tensor) -> dict[str, Tensor]:
    """Return autograd's own gradients of the mean loss with frozen statistics."""
    network, objective = step.network.eval(), step.objective
    network.zero_grad()
    targets = objective.targets(ecg_BLT, targets_BJ)
    (objective.total(network.head(network.body(ecg_BLT)), targets) / objective.weight(targets)).backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


COUNTS = {4: 0.60e6, 8: 1.12e6, 16: 2.15e6}  # the original's, medium, 18 classes, with the auxiliary head


@pytest.mark.parametrize("rank", COUNTS)
def test_lora_trains_as_many_parameters_as_the_original(rank: int) -> None:
    label_set = LabelSet("g12ec", "multilabel", tuple(f"c{i}" for i in range(18)))
    signal = Signal(tuple(f"l{i}" for i in range(12)), 500.0, 6144)
    config = AdagradFusionConfig(size="medium", rank=rank, aux_weight=1.0)
    with torch.device("meta"):
        network = build_model(config, signal, label_set)
    trained = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    assert sum(trained.values()) == pytest.approx(COUNTS[rank], abs=0.005e6)
    assert not any(name.endswith("out.lora_a") for name in trained)  # attention's output projection
    assert {"head.classes.weight", "head.auxiliary_out.weight"} <= set(trained)


@pytest.mark.parametrize(("tuning", "body"), [("full", True), ("lora", True), ("zo", True), ("probe", False)])
def test_each_tuning_gives_just_what_it_trains_a_gradient(tuning: str, body: bool) -> None:
    params = {"tuning": tuning, **({"rank": 16} if tuning in ("full", "probe") else {}), "bp_batch": 8}
    step, ecg_BLT, targets_BJ = build_step(**params)
    found = gradients(step, ecg_BLT, targets_BJ)
    wanted = {name for name, parameter in step.network.named_parameters() if parameter.requires_grad}
    assert set(found) == wanted
    assert any(name.startswith("body") for name in wanted) is body
    assert all(name.startswith("head") or gradient.any() for name, gradient in found.items())


@pytest.mark.parametrize("pieces", [1, 5])
def test_first_order_gradients_are_autograds_own(pieces: int) -> None:
    step, ecg_BLT, targets_BJ = build_step(coef=1.0, head_gradient="bp_batch", accumulate_steps=pieces)
    found = gradients(step, ecg_BLT, targets_BJ)
    # After the step: zeroth-order passes have moved the running statistics, by which first order goes.
    expected = back_propagated(step, ecg_BLT[:4], targets_BJ[:4])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_fused_gradient_joins_both_as_the_formula_says() -> None:
    frozen: dict[str, Any] = {"zo_statistics": "frozen"}
    first = gradients(*build_step(coef=1.0, **frozen))
    zeroth = gradients(*build_step(tuning="zo", bp_batch=8, **frozen))
    for name, found in gradients(*build_step(coef=0.7, **frozen)).items():
        expected = fuse(first[name], zeroth[name], 0.7) if name.startswith("body") else first[name]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("aux_weight", [0.0, 1.0])
def test_the_zeroth_order_gradient_is_the_slope_of_the_whole_loss(aux_weight: float) -> None:
    """p z with p = g . z: both evaluations have the same loss, the auxiliary head's included."""
    params: dict[str, Any] = {"tuning": "zo", "bp_batch": 8, "zo_statistics": "frozen", "aux_weight": aux_weight}
    step, ecg_BLT, targets_BJ = build_step(**params, normal_labels=("tall",) if aux_weight else None)
    found = gradients(step, ecg_BLT, targets_BJ)
    true = back_propagated(step, ecg_BLT, targets_BJ)
    body = [name for name in found if name.startswith("body")]
    z = list(Direction(derive_seed(Use.DIRECTION, 7, 0, 0)).draw(step.body))
    p = sum(float((true[name] * each).sum()) for name, each in zip(body, z, strict=True))
    for name, each in zip(body, z, strict=True):
        torch.testing.assert_close(found[name], p * each, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("statistics", ["batch", "frozen"])
def test_the_chunk_changes_memory_not_the_gradient(statistics: str) -> None:
    chunked, whole = (gradients(*build_step(zo_chunk=chunk, zo_statistics=statistics)) for chunk in (5, 24))
    # p is a small difference of losses: rounding shows there first
    torch.testing.assert_close(chunked, whole, rtol=2e-2, atol=1e-4)


def test_the_head_learns_from_the_whole_batch_through_features_without_gradient() -> None:
    step, ecg_BLT, targets_BJ = build_step(zo_statistics="frozen", zo_eps=1e-5)
    found = gradients(step, ecg_BLT, targets_BJ)
    expected = back_propagated(step, ecg_BLT, targets_BJ)
    for name in (name for name in found if name.startswith("head")):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)


def test_running_statistics_move_by_the_whole_batch_and_not_by_the_few() -> None:
    step, ecg_BLT, targets_BJ = build_step(zo_eps=1e-5)
    other, *_ = build_step(tuning="lora", bp_batch=8)
    gradients(step, ecg_BLT, targets_BJ)
    gradients(other, ecg_BLT, targets_BJ)  # a training pass of torch's own
    for found, expected in zip(norms_of(step.network), norms_of(other.network), strict=True):
        torch.testing.assert_close(found.running_mean, expected.running_mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.running_var, expected.running_var, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sides", [1, 2])
def test_a_step_leaves_every_parameter_bit_for_bit_as_it_was(precision: str, sides: int) -> None:
    step, ecg_BLT, targets_BJ = build_step(precision=precision, zo_sides=sides, zo_queries=3)
    before = {name: parameter.clone() for name, parameter in step.network.named_parameters()}
    found = gradients(step, ecg_BLT, targets_BJ)
    assert all(torch.equal(parameter, before[name]) for name, parameter in step.network.named_parameters())
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in found.values())


@pytest.mark.parametrize("score", ["uniform", "magnitude", "activation"])
def test_sparse_zeroth_order_gradients_have_the_stated_density(score: str) -> None:
    step, ecg_BLT, targets_BJ = build_step(tuning="zo", bp_batch=8, gradient_sparsity=0.75, sparsity_score=score)
    for name, gradient in gradients(step, ecg_BLT, targets_BJ).items():
        if name.startswith("body"):
            assert int((gradient == 0).sum()) == round(0.75 * gradient.numel()), name


@pytest.mark.parametrize(("mask", "same"), [("fixed", True), ("redrawn", False)])
def test_a_sparsity_mask_stays_or_is_drawn_anew(mask: str, same: bool) -> None:
    step, *batch = build_step(tuning="zo", bp_batch=8, gradient_sparsity=0.5, sparsity_mask=mask)
    zeros = [{name: gradient == 0 for name, gradient in gradients(step, *batch, number).items()} for number in (0, 1)]
    name = "body.0.blocks.1.conv1.lora_a"
    assert torch.equal(zeros[0][name], zeros[1][name]) is same


def test_directions_depend_on_the_seed_and_the_step_alone() -> None:
    step, *batch = build_step()
    again, *_ = build_step()
    torch.testing.assert_close(gradients(step, *batch, 3), gradients(again, *batch, 3), rtol=0, atol=0)
    name = "body.0.blocks.1.conv1.lora_a"
    assert not torch.equal(gradients(step, *batch, 4)[name], gradients(again, *batch, 5)[name])


def test_measured_agreement_and_masks_survive_a_resume(tmp_path: Path) -> None:
    params: dict[str, Any] = {**SMALL, "epochs": 3, "coef_rule": "variance", "zo_queries": 2, "coef": 0.5}
    params |= {"gradient_sparsity": 0.5, "sparsity_score": "magnitude", "batch_size": 8}
    whole = PlainTrial(3)
    train(AdagradFusionConfig(**params), DATASET, whole)
    with pytest.raises(TrialStopped):
        train(AdagradFusionConfig(**params), DATASET, PlainTrial(3, tmp_path, stop_after=1))
    resumed = PlainTrial(3, tmp_path)
    train(AdagradFusionConfig(**params), DATASET, resumed)
    measured = {"epoch_s", "peak_memory_bytes", "process_peak_bytes"}
    for name in set(whole.reports[3]) - measured:
        assert resumed.reports[3][name] == whole.reports[3][name], name
    assert load_checkpoint(tmp_path / CHECKPOINT_FILE)["step"]["masks"] is not None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tuning": "lora", "coef": 0.5}, "coef works only with tuning: fused"),
        ({"tuning": "full", "rank": 4}, "rank works only with tuning: fused, lora, zo"),
        ({"tuning": "zo", "accumulate_steps": 2}, "accumulate_steps works only with tuning: full, fused, lora"),
        ({"coef_rule": "variance"}, "coef_rule: variance needs at least 2 zo_queries .* cosine takes 1"),
        ({"bp_batch": 16, "batch_size": 8}, "bp_batch must not exceed batch_size, but got 16 of 8"),
        ({"sparsity_score": "magnitude"}, "sparsity_score works only with gradient_sparsity"),
    ],
)
def test_what_would_have_no_effect_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AdagradFusionConfig(**params)
