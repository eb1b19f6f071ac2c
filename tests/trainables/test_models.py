"""Networks: parameter counts derived by hand, shapes, and seeded initialisation."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from data.dataset import LabelSet, Signal
from trainables.lstm import BidirectionalLstm
from trainables.standardise import OutputUnits, Standardise, fit_output_units
from trainables.supervised import Model, SupervisedConfig, build_model

SIGNAL = Signal(tuple(f"lead{i}" for i in range(12)), 100.0, 1000)
LABELS = LabelSet("test", "multilabel", ("a", "b", "c", "d", "e"))
MODELS = list(get_args(Model))

STEM = 12 * 32 * 5 + 32 * 32 * 5 + 32 * 64 * 5 + 2 * (32 + 32 + 64)  # kernels, and scale and shift of the norms


def head(width: int) -> int:
    return 2 * 2 * width + (2 * width * 128 + 128) + 2 * 128 + (128 * 5 + 5)


BASIC = 2 * 64 * 64 * 5 + 2 * 2 * 64
BOTTLENECK = 256 * 64 + 64 * 64 * 5 + 64 * 256 + 2 * (64 + 64 + 256)
FIRST_BOTTLENECK = BOTTLENECK - (256 - 64) * 64 + 64 * 256 + 2 * 256  # 64 channels in, and a convolved shortcut


def inception_group(width: int) -> int:
    modules = [in_width * 32 + 32 * 32 * (39 + 19 + 9) + in_width * 32 + 2 * 128 for in_width in (width, 128, 128)]
    return sum(modules) + width * 128 + 2 * 128


def lstm(n_inputs: int) -> int:  # two directions of four gates, with torch's two biases each
    return 2 * 4 * 256 * (n_inputs + 256 + 2)


WANG_BLOCK = 128 * 128 * 5 + 128 * 128 * 3 + 2 * 2 * 128
WANG_SHORTCUT = 128 * 128 + 2 * 128

COUNTS = {
    "xresnet1d18": STEM + 8 * BASIC + head(64),
    "xresnet1d50": STEM + FIRST_BOTTLENECK + 15 * BOTTLENECK + head(256),
    "xresnet1d101": STEM + FIRST_BOTTLENECK + 32 * BOTTLENECK + head(256),
    "inception1d": inception_group(12) + inception_group(128) + head(128),
    "resnet1d_wang": 12 * 128 * 7 + 2 * 128 + 3 * WANG_BLOCK + 2 * WANG_SHORTCUT + head(128),
    "fcn_wang": 12 * 128 * 8 + 128 * 256 * 5 + 256 * 128 * 3 + 2 * (128 + 256 + 128) + head(128),
    "lstm_bidir": lstm(12) + lstm(2 * 256) + head(3 * 256),  # mean, max and last of both directions
    "cnn": 12 * 32 * 7 + 3 * 32 * 32 * 7 + 4 * 2 * 32 + 2 * 32 * 5 + 5,
}


def build(signal: Signal = SIGNAL, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SupervisedConfig(**params), signal, LABELS)


@pytest.mark.parametrize("model", MODELS)
def test_parameter_counts_follow_from_the_papers_widths(model: str) -> None:
    assert sum(p.numel() for p in build(model=model).parameters()) == COUNTS[model]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("n_leads", "n_timesteps"), [(12, 1000), (1, 601), (2, 250)])
def test_every_network_takes_any_leads_and_lengths(model: str, n_leads: int, n_timesteps: int) -> None:
    signal = Signal(tuple(f"lead{i}" for i in range(n_leads)), 100.0, n_timesteps)
    network = build(signal, model=model).eval()
    assert network(torch.randn(2, n_leads, n_timesteps)).shape == (2, 5)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_every_layer_of_the_cnn_has_its_own_width(norm: str) -> None:
    network = build(model="cnn", channels=(8, 16), depth=2, norm=norm)
    expected = 12 * 8 * 7 + 2 * 8 + 8 * 16 * 7 + 2 * 16 + 2 * 16 * 5 + 5
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_initialises_the_same_network(model: str) -> None:
    first, second = build(model=model).state_dict(), build(model=model).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cnn_too_deep_for_its_window_is_refused() -> None:
    with pytest.raises(ValueError, match="depth=6 halves time to nothing: it needs 64 timesteps, but a window has 40"):
        build(model="cnn", depth=6, crop_timesteps=40)


def test_standardise_gives_each_lead_mean_zero_and_deviation_one_and_a_flat_lead_zeros() -> None:
    ecg = torch.randn(3, 2, 500) * 7 + 4
    ecg[0, 1] = 4.0
    out = Standardise()(ecg)
    assert torch.allclose(out.mean(dim=2), torch.zeros(3, 2), atol=1e-5)
    assert torch.allclose(out[1:].std(dim=2, unbiased=False), torch.ones(2, 2), atol=1e-4)
    assert torch.equal(out[0, 1], torch.zeros(500))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60))
def test_standardise_gives_a_padded_window_the_values_of_the_bare_one_and_zeros(length: int, n_padded: int) -> None:
    bare = torch.from_numpy(np.random.default_rng(length).normal(3, 2, (2, 3, length))).float()
    bare[1, 0] = 0.0  # a lead that is zero throughout is no padding
    out = Standardise()(nn.functional.pad(bare, (0, n_padded)))
    assert torch.allclose(out[:, :, :length], Standardise()(bare), atol=1e-4)
    assert not out[:, :, length:].any()


def test_standardise_leaves_a_window_of_nothing_but_padding_at_zero() -> None:
    assert not Standardise()(torch.zeros(1, 2, 9)).any()


def test_the_lstm_takes_each_direction_where_it_has_seen_every_timestep() -> None:
    torch.manual_seed(0)
    pooled = BidirectionalLstm(2)
    ecg = torch.randn(1, 2, 30)
    (_, (hidden, _)) = pooled.lstm(ecg.transpose(1, 2))  # torch's own final states: layers x directions
    assert torch.allclose(pooled(ecg)[0, 2 * 512 :], hidden[-2:, 0].reshape(-1), atol=1e-6)


def test_a_signal_that_asks_for_it_is_standardised_in_the_model() -> None:
    signal = Signal(SIGNAL.lead_names, 100.0, 1000, standardise_windows=True)
    network = build(signal, model="cnn").eval()
    ecg = torch.randn(2, 12, 1000)
    assert torch.allclose(network(ecg), network(ecg * 5 + 3), atol=1e-4)


def test_output_units_come_from_the_training_labels() -> None:
    model = nn.Sequential(OutputUnits(1))
    fit_output_units(model, torch.tensor([[600.0], [1000.0], [float("nan")]]).numpy())
    assert model(torch.tensor([[1.0], [0.0]])).tolist() == [[1000.0], [800.0]]
