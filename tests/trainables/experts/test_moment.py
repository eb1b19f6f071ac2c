"""MOMENT: the published layout, its sizes, and its numbers against a computation of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from tests.trainables.experts.layout import shapes_of, state_of
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.moment import SHAPES, MomentConfig, MomentNetwork, MomentSize
from trainables.experts.table import build_expert

Array = NDArray[np.float64]


def published(size: MomentSize) -> dict[str, tuple[int, ...]]:
    shape = SHAPES[size]
    inner = shape.n_heads * shape.d_kv
    return shapes_of("moment", shape.n_layers, D=shape.d_model, F=shape.d_ff, I=inner, H=shape.n_heads)


@pytest.mark.parametrize(
    ("size", "n_parameters"), [("small", 18_880_000), ("base", 85_000_000), ("large", 308_500_000)]
)
def test_the_published_sizes_have_the_published_tensors(size: MomentSize, n_parameters: int) -> None:
    """Counts: the encoders of flan-t5, which hold these many weights beside their vocabulary."""
    with torch.device("meta"):
        ours = {name: tuple(each.shape) for name, each in MomentNetwork(SHAPES[size]).state_dict().items()}
    theirs = published(size)
    unused = {name for name in theirs if name.startswith("head.") or name.endswith((".pe", "embed_tokens.weight"))}
    assert ours == {name: shape for name, shape in theirs.items() if name not in unused}
    assert sum(map(math.prod, ours.values())) == pytest.approx(n_parameters, rel=0.01)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(published("tiny"))


def test_a_file_of_the_published_layout_gives_the_numbers_of_a_computation_of_their_own(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "model.safetensors")
    expert = build_expert(MomentConfig(weights=str(tmp_path)), SIGNAL)
    ecg_BLT = records_of(lengths=(1_000, 640))
    windows = expert.view(ecg_BLT)  # type: ignore[operator]
    found_BD = expert(ecg_BLT).numpy()
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    for row in range(2):
        leads = windows.ecg_RLT[row].double().numpy()
        is_signal_T = windows.is_signal_RT[row].numpy() > 0
        expected_D = np.mean([embed(lead_T, is_signal_T, weights) for lead_T in leads], axis=0)
        np.testing.assert_allclose(found_BD[row], expected_D, rtol=2e-3, atol=2e-4)


def test_a_file_of_another_network_is_refused_by_the_tensor_that_differs(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    save_file({**state, "encoder.block.9.layer.0.layer_norm.weight": torch.ones(64)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"block\.9\.layer\.0\.layer_norm\.weight has no place; choose kind and size"):
        build_expert(MomentConfig(weights=str(tmp_path / "more.safetensors")), SIGNAL)
    less = {name: tensor for name, tensor in state.items() if name != "patch_embedding.mask_embedding"}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"patch_embedding\.mask_embedding is missing"):
        build_expert(MomentConfig(weights=str(tmp_path / "less.safetensors")), SIGNAL)


def test_a_window_is_ten_seconds_in_512_timesteps() -> None:
    expert = build_expert(MomentConfig(), SIGNAL)
    assert expert.input.n_timesteps / expert.input.fs_hz == 10
    assert expert.view(records_of()).ecg_RLT.shape == (3, 12, 512)  # type: ignore[operator]


# ------------------------------------------------------------------ the same in numpy


def embed(series_T: Array, is_signal_T: NDArray[np.bool_], weights: dict[str, Any]) -> Array:
    """Embed one series as momentfm's `embed` does."""
    shape = SHAPES["tiny"]
    seen = series_T[is_signal_T]
    patch_PX = ((series_T - seen.mean()) / (seen.std() + 1e-5)).reshape(-1, 8)
    is_whole_P = is_signal_T.reshape(-1, 8).all(axis=1)
    value_PD = patch_PX @ weights["patch_embedding.value_embedding.weight"].T
    hidden_PD = np.where(is_whole_P[:, None], value_PD, weights["patch_embedding.mask_embedding"])
    hidden_PD = hidden_PD + positions(len(patch_PX), shape.d_model)
    bias_HPP = relative_bias(
        len(patch_PX), weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    )
    for number in range(shape.n_layers):
        attention, feed = f"encoder.block.{number}.layer.0", f"encoder.block.{number}.layer.1"
        normed_PD = rms_norm(hidden_PD, weights[f"{attention}.layer_norm.weight"])
        hidden_PD = hidden_PD + attend(normed_PD, bias_HPP, is_whole_P, f"{attention}.SelfAttention", weights)
        normed_PD = rms_norm(hidden_PD, weights[f"{feed}.layer_norm.weight"])
        gate_PF = gelu(normed_PD @ weights[f"{feed}.DenseReluDense.wi_0.weight"].T)
        linear_PF = normed_PD @ weights[f"{feed}.DenseReluDense.wi_1.weight"].T
        hidden_PD = hidden_PD + (gate_PF * linear_PF) @ weights[f"{feed}.DenseReluDense.wo.weight"].T
    hidden_PD = rms_norm(hidden_PD, weights["encoder.final_layer_norm.weight"])
    return hidden_PD[is_whole_P].mean(axis=0)


def attend(hidden_PD: Array, bias_HPP: Array, is_whole_P: NDArray[np.bool_], layer: str, weights: Any) -> Array:
    heads = []
    width = SHAPES["tiny"].d_kv
    query, key, value = (hidden_PD @ weights[f"{layer}.{name}.weight"].T for name in "qkv")
    for head, bias_PP in enumerate(bias_HPP):
        own = slice(head * width, (head + 1) * width)
        score_PP = query[:, own] @ key[:, own].T + bias_PP
        score_PP[:, ~is_whole_P] = -np.inf
        share_PP = np.exp(score_PP - score_PP.max(axis=1, keepdims=True))
        heads.append(share_PP / share_PP.sum(axis=1, keepdims=True) @ value[:, own])
    return np.asarray(np.concatenate(heads, axis=1) @ weights[f"{layer}.o.weight"].T)


def relative_bias(n_patches: int, table_VH: Array) -> Array:
    """Bias by distance (Raffel et al. 2020, section 2.1): 16 buckets a direction, 8 exact, to 128 by logarithms."""
    bias_HPP = np.zeros((table_VH.shape[1], n_patches, n_patches))
    for query in range(n_patches):
        for key in range(n_patches):
            distance = abs(key - query)
            bucket = distance
            if distance >= 8:
                bucket = min(15, 8 + int(math.log(distance / 8) / math.log(128 / 8) * 8))
            bias_HPP[:, query, key] = table_VH[bucket + (16 if key > query else 0)]
    return bias_HPP


def positions(n_patches: int, d_model: int) -> Array:
    rate = 10_000.0 ** (-np.arange(0, d_model, 2) / d_model)
    found_PD = np.zeros((n_patches, d_model))
    found_PD[:, 0::2] = np.sin(np.arange(n_patches)[:, None] * rate)
    found_PD[:, 1::2] = np.cos(np.arange(n_patches)[:, None] * rate)
    return found_PD


def rms_norm(hidden_PD: Array, weight_D: Array) -> Array:
    return np.asarray(weight_D * hidden_PD / np.sqrt((hidden_PD**2).mean(axis=1, keepdims=True) + 1e-6))


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
