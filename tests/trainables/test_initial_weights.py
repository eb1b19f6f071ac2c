"""Training starts from given weights, but for a last layer with other outputs; never from another network's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.checkpoint import save_weights
from trainables.initial_weights import start_from
from trainables.methods import METHODS
from trainables.plain_trial import PlainTrial

PARAMS = {"model": "cnn", "channels": 4, "depth": 2, "epochs": 1, "batch_size": 16, "lr": 1e-6}


def network(n_outputs: int, width: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv1d(3, width, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, n_outputs))


def save(path: Path, model: nn.Module) -> Path:
    save_weights(path, model.state_dict())
    return path


def test_the_same_network_takes_every_tensor(tmp_path: Path) -> None:
    model = network(2, seed=1)
    assert start_from(model, save(tmp_path / "w.safetensors", network(2))) == []
    for ours, theirs in zip(model.state_dict().values(), network(2).state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_last_layer_with_other_outputs_stays_fresh(tmp_path: Path) -> None:
    model = network(7, seed=1)
    assert start_from(model, save(tmp_path / "w.safetensors", network(2))) == ["3.weight", "3.bias"]
    assert torch.equal(model[0].weight, network(2)[0].weight)
    assert torch.equal(model[3].weight, network(7, seed=1)[3].weight)


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "w.safetensors", network(2))
    with pytest.raises(ValueError, match=r"its 0\.weight has the shape \(5, 3, 3\), the network's \(6, 3, 3\)"):
        start_from(network(2, width=6), path)
    with pytest.raises(ValueError, match=r"the network has 4\.bias, .*w\.safetensors has not"):
        start_from(nn.Sequential(*network(2), nn.Linear(2, 2)), path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"weights: .*none\.safetensors is not there; give a safetensors file"):
        start_from(network(2), tmp_path / "none.safetensors")


def test_a_supervised_trial_starts_where_the_weights_were(tmp_path: Path) -> None:
    method, dataset = METHODS["supervised"], tiny_dataset()
    trained = PlainTrial(seed=1, folder=tmp_path)
    method.train(method.parse_config({**PARAMS, "lr": 1e-2, "epochs": 4}), dataset, trained)
    state = trained.restore()
    assert state is not None
    save_weights(tmp_path / "w.safetensors", state["model"])
    further = PlainTrial(seed=2)
    method.train(method.parse_config({**PARAMS, "weights": str(tmp_path / "w.safetensors")}), dataset, further)
    assert further.reports[1]["val/auroc"] == pytest.approx(trained.reports[4]["val/auroc"], abs=1e-3)
    fresh = PlainTrial(seed=2)
    method.train(method.parse_config(PARAMS), dataset, fresh)
    assert abs(fresh.reports[1]["val/loss"] - trained.reports[4]["val/loss"]) > 0.05
