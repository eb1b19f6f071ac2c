"""LoRA layers against the matrix algebra of their definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.lora import LoraConv1d, LoraLinear, add_lora, merge_state, merged


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(24, 2)

    def forward(self, x_BCT: torch.Tensor) -> torch.Tensor:
        return self.out(self.qkv(self.norm(self.conv(x_BCT)).transpose(1, 2)).amax(dim=1))


TARGETS = {"conv": 1, "qkv": 3}


def adapted(rank: int = 2, alpha: float = 3.0) -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    add_lora(net, rank, alpha, TARGETS)
    return net


def moved(net: Net) -> Net:
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    return net


def test_an_update_starts_at_nothing() -> None:
    torch.manual_seed(0)
    plain, x = Net().eval(), torch.randn(4, 3, 16)
    torch.testing.assert_close(adapted()(x), plain(x), rtol=0, atol=0)


def test_only_updates_and_biases_train() -> None:
    trained = {name for name, parameter in adapted().named_parameters() if parameter.requires_grad}
    lora = {f"{layer}.lora_{part}" for layer in TARGETS for part in "ab"}
    assert trained == lora | {"conv.bias", "norm.bias", "qkv.bias", "out.bias"}


def test_a_convolutions_update_is_b_times_a_in_the_shape_of_the_kernel() -> None:
    layer = moved(adapted()).conv
    assert isinstance(layer, LoraConv1d)
    kernel = layer.weight + 1.5 * (layer.lora_b @ layer.lora_a.reshape(2, -1)).reshape(8, 3, 5)
    x = torch.randn(4, 3, 16)
    torch.testing.assert_close(layer(x), nn.functional.conv1d(x, kernel, layer.bias, 2, 2))


def test_query_key_and_value_have_independent_updates() -> None:
    layer = moved(adapted()).qkv
    assert isinstance(layer, LoraLinear)
    weight = layer.weight.clone()
    for part in range(3):
        weight[8 * part : 8 * part + 8] += 1.5 * layer.lora_b[8 * part : 8 * part + 8] @ layer.lora_a[2 * part :][:2]
    x = torch.randn(4, 5, 8)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, weight, layer.bias))


def test_a_merged_model_answers_alike_and_is_plain() -> None:
    net, x = moved(adapted()), torch.randn(4, 3, 16)
    plain = merged(net)
    assert set(plain.state_dict()) == set(Net().state_dict())
    torch.testing.assert_close(plain(x), net(x))
    assert merged(plain) is plain


def test_a_state_merges_into_that_of_the_plain_model() -> None:
    net = moved(adapted())
    state = merge_state(net.state_dict())
    assert state.keys() == Net().state_dict().keys()
    for name, tensor in merged(net).state_dict().items():
        torch.testing.assert_close(state[name], tensor)


@pytest.mark.parametrize("layer", ["conv", "qkv"])
def test_the_gradient_of_an_update_is_that_of_the_merged_weight(layer: str) -> None:
    """dL/dB = scale dL/dW A^T, for a convolution with W and A flattened to matrices."""
    net, x = moved(adapted()), torch.randn(4, 3, 16)
    plain = merged(net)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    of_w = plain.get_submodule(layer).weight.grad.flatten(1)
    a = net.get_submodule(layer).lora_a.flatten(1)
    expected = [1.5 * g @ part.T for g, part in zip(of_w.chunk(len(a) // 2), a.chunk(len(a) // 2), strict=True)]
    torch.testing.assert_close(net.get_submodule(layer).lora_b.grad, torch.cat(expected), rtol=1e-4, atol=1e-3)
