"""Learning rates against torch's schedulers and their closed forms, and what optimisers decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainables.config import TrainConfig
from trainables.optimisation import LearningRate, build_optimizer

STEPS, EPOCHS = 5, 4


def rates(**params: Any) -> list[float]:
    rate = LearningRate(TrainConfig(lr=0.1, **params), STEPS, EPOCHS)
    return [rate.at(step) for step in range(STEPS * EPOCHS)]


def torchs(scheduler: Any, **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = scheduler(optimizer, **options)
    found = []
    for _ in range(STEPS * EPOCHS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_cosine_is_torchs() -> None:
    expected = torchs(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS * EPOCHS)
    assert rates(schedule="cosine") == pytest.approx(expected)


def test_step_is_torchs() -> None:
    expected = torchs(torch.optim.lr_scheduler.StepLR, step_size=STEPS, gamma=0.3)
    assert rates(schedule="step", decay_epochs=1, decay_factor=0.3) == pytest.approx(expected)


def test_one_cycle_rises_from_a_25th_to_the_peak_and_falls_to_almost_nothing() -> None:
    found = rates(schedule="one_cycle")
    assert found[0] == pytest.approx(0.1 / 25)
    assert found[6] == pytest.approx(0.1)  # 30 % of 20 steps
    assert found[:7] == sorted(found[:7])
    assert found[6:] == sorted(found[6:], reverse=True)
    assert found[-1] < 0.002


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step"])
def test_warm_up_rises_linearly(schedule: Any) -> None:
    found = rates(schedule=schedule, warmup_epochs=1.0)
    assert found[:STEPS] == pytest.approx([0.1 * (i + 1) / STEPS for i in range(STEPS)])


def test_plateau_is_torchs() -> None:
    losses = [1.0, 0.9, 0.9, 0.95, 0.8, 0.85, 0.81, 0.82, 0.83]
    rate = LearningRate(TrainConfig(lr=0.1, schedule="plateau", decay_epochs=2), STEPS, len(losses))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.0)
    for loss in losses:
        rate.end_epoch(loss)
        reference.step(loss)
        assert rate.at(0) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "nadam", "sgd", "rmsprop"])
def test_every_optimiser_takes_its_steps_downhill(optimizer: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    built = build_optimizer(TrainConfig(optimizer=optimizer, lr=1e-2), model)
    x = torch.randn(32, 3)
    losses = []
    for _ in range(20):
        built.zero_grad()
        loss = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        built.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_decay_spares_biases_norms_and_frozen_weights() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 5), nn.BatchNorm1d(3), nn.Linear(3, 2))
    model[2].weight.requires_grad_(False)
    decayed, spared = build_optimizer(TrainConfig(weight_decay=0.1), model).param_groups
    assert decayed["weight_decay"] == 0.1
    assert [tuple(p.shape) for p in decayed["params"]] == [(3, 2, 5)]
    assert spared["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in spared["params"]] == [(3,), (3,), (3,), (2,)]


def test_a_parameter_s_own_scale_multiplies_its_rate_at_every_step() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    config = TrainConfig(lr=0.1)
    optimizer = build_optimizer(config, model, lambda name: 10.0 if name.startswith("1.") else 1.0)
    rate = LearningRate(config, STEPS, EPOCHS)
    assert rate.apply(optimizer, 7) == rate.at(7)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"0.weight": 1, "0.bias": 1, "1.weight": 10, "1.bias": 10}
    assert {name: found[id(p)] for name, p in model.named_parameters()} == {
        name: pytest.approx(scale * rate.at(7)) for name, scale in expected.items()
    }


def test_linear_rises_over_8_percent_and_falls_straight_to_nothing() -> None:
    steps = 100
    rate = LearningRate(TrainConfig(lr=0.1, schedule="linear"), steps, 1)
    found = [rate.at(step) for step in range(steps)]
    assert found[:8] == pytest.approx([0.1 * (step + 1) / 8 for step in range(8)])
    assert found[8:] == pytest.approx([0.1 * (steps - step) / 92 for step in range(8, steps)])


def test_the_adams_take_their_moments_decay_and_epsilon() -> None:
    optimizer = build_optimizer(TrainConfig(beta2=0.98, adam_eps=1e-9), nn.Linear(2, 2))
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.9, 0.98), 1e-9)}
