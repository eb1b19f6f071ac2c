"""Batch norm in chunks against torch's own training pass over the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from trainables.batch_norm import WholeBatchNorm, frozen, norms_of

ECG_BLT = torch.randn(10, 3, 32, generator=torch.Generator().manual_seed(0)) * 3 + 1


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv1d(3, 8, 5), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 5), nn.BatchNorm1d(4), nn.Flatten()
    )


def trained_once(net: nn.Module) -> Tensor:
    with torch.no_grad():
        answers: Tensor = net.train()(ECG_BLT)
    return answers


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 64])
def test_chunks_see_the_statistics_of_the_whole_batch(chunk: int) -> None:
    expected = trained_once(network())
    net = network().eval()
    with torch.no_grad():
        found = WholeBatchNorm(norms_of(net), chunk, 1).evaluate(net, ECG_BLT)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [3, 64])
def test_running_statistics_move_once_a_step_as_in_training(chunk: int) -> None:
    trained, net = network(), network().eval()
    trained_once(trained)
    before = copy.deepcopy(net.state_dict())
    whole = WholeBatchNorm(norms_of(net), chunk, 1)
    with torch.no_grad():
        for _ in range(2):
            whole.evaluate(net, ECG_BLT)
            torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    whole.end_step()
    for norm, expected in zip(norms_of(net), norms_of(trained), strict=True):
        torch.testing.assert_close(norm.running_mean, expected.running_mean)
        torch.testing.assert_close(norm.running_var, expected.running_var)


def test_an_evaluation_that_fails_leaves_the_running_statistics() -> None:
    net = network().eval()
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad(), pytest.raises(RuntimeError, match="channels"):
        WholeBatchNorm(norms_of(net), 2, 1).evaluate(net, ECG_BLT[:, :2])
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_frozen_layers_neither_use_nor_change_a_batchs_statistics() -> None:
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    with frozen(norms_of(net)):
        together, alone = net(ECG_BLT), net(ECG_BLT[:1])
    torch.testing.assert_close(together[:1], alone)
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert all(norm.training for norm in norms_of(net))
