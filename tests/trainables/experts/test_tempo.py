"""TEMPO: the published layout, LoRA, the three parts, and its numbers against a computation of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from statsmodels.tsa.seasonal import STL
from torch import Tensor

from tests.trainables.experts.layout import shapes_of, state_of
from tests.trainables.experts.whole_records import SIGNAL, records_of
from trainables.experts.table import build_expert
from trainables.experts.tempo import SHAPES, TempoConfig, TempoNetwork, TempoSize, from_published

Array = NDArray[np.float64]
PROMPT = (47, 17407, 262, 2003, 640, 2239, 1813, 262)
LAST = {"trend": 5182, "season": 1622, "noise": 29598}
GPT2 = "gpt2_trend.base_model.model."


def published(size: TempoSize) -> dict[str, tuple[int, ...]]:
    width = SHAPES[size].d_model
    return shapes_of("tempo", SHAPES[size].n_layers, D=width, E=3 * width, M=4 * width, O=42 * width)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(published("tiny"))


@pytest.mark.parametrize("decomposition", ["stl", "learned"])
def test_the_published_file_has_all_that_the_network_needs_and_nothing_more(
    decomposition: Literal["stl", "learned"],
) -> None:
    with torch.device("meta"):
        theirs = from_published({name: torch.empty(shape) for name, shape in published("80m").items()})
        ours = TempoNetwork(SHAPES["80m"], decomposition).state_dict()
    assert {name: each.shape for name, each in theirs.items()} == {name: each.shape for name, each in ours.items()}


def test_gpt2_of_the_published_size_has_82_million_weights_with_its_vocabulary() -> None:
    counted = [math.prod(s) for n, s in published("80m").items() if n.startswith(GPT2) and "lora" not in n]
    masks = SHAPES["80m"].n_layers * 1024**2
    # 50,257 x 768 + 1,024 x 768 + 6 x 7,087,872 + 2 x 768
    assert sum(counted) - masks == 38_597_376 + 786_432 + 42_527_232 + 1_536


@pytest.mark.parametrize("decomposition", ["stl", "learned"])
def test_a_file_of_the_published_layout_gives_the_numbers_of_a_computation_of_their_own(
    decomposition: Literal["stl", "learned"], state: dict[str, Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "tempo.pth")
    config = TempoConfig(
        weights=str(tmp_path / "tempo.pth"), decomposition=decomposition, features=("forecast", "embeddings")
    )
    expert = build_expert(config, SIGNAL)
    ecg_BLT = records_of()
    series = expert.view(ecg_BLT).ecg_RLT[:, 0].double().numpy()  # type: ignore[operator]
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    expected = [forecast(series_T, decomposition, weights) for series_T in series]
    np.testing.assert_allclose(expert(ecg_BLT).numpy(), np.stack(expected), rtol=2e-3, atol=2e-3)


def test_lora_of_older_and_newer_peft_is_added_to_the_weights(state: dict[str, Tensor]) -> None:
    older = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, tensor in from_published(older).items():
        torch.testing.assert_close(tensor, from_published(state)[name])
    layer = f"{GPT2}h.0.attn.c_attn"
    merged = (
        state[f"{layer}.base_layer.weight"]
        + (state[f"{layer}.lora_B.default.weight"] @ state[f"{layer}.lora_A.default.weight"]).T
    )
    torch.testing.assert_close(from_published(state)["gpt2.h.0.attn.c_attn.weight"], merged)
    half = {name: tensor for name, tensor in state.items() if name != f"{layer}.lora_B.default.weight"}
    with pytest.raises(ValueError, match=r"LoRA of h\.0\.attn\.c_attn is not whole"):
        from_published(half)


def test_a_pool_of_prompts_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**state, "prompt_key_dict.prompt_key_0": torch.ones(64)}, tmp_path / "pool.pth")
    with pytest.raises(ValueError, match=r"prompt_key_dict\.prompt_key_0 has no place"):
        build_expert(TempoConfig(weights=str(tmp_path / "pool.pth")), SIGNAL)


def test_its_forecast_moves_with_the_series_and_scales_with_it() -> None:
    """What reversible normalisation is for."""
    network = TempoNetwork(SHAPES["tiny"], "stl").eval()
    series_ST = records_of()[:, 1, :336]
    with torch.inference_mode():
        forecast_SF, _ = network(series_ST)
        moved_SF, _ = network(series_ST * 50 + 7)
    torch.testing.assert_close(moved_SF, forecast_SF * 50 + 7, rtol=1e-2, atol=0.2)


# ------------------------------------------------------------------ the same in numpy


def forecast(series_T: Array, decomposition: str, weights: Any) -> Array:
    """Return the forecast and the mean token of one series."""
    mean, deviation = series_T.mean(), math.sqrt(series_T.var() + 1e-5)
    scale, shift = weights["rev_in_trend.affine_weight"], weights["rev_in_trend.affine_bias"]
    parts = decompose((series_T - mean) / deviation * scale + shift, decomposition, weights)
    pieces = []
    for part, part_T in parts.items():
        words = weights[f"{GPT2}wte.weight"][[*PROMPT, LAST[part]]]
        pieces.append(linear(words, f"prompt_layer_{part}", weights))
        padded_T = np.append(part_T, [part_T[-1]] * 8)
        patches = np.stack([padded_T[start : start + 16] for start in range(0, 336, 8) if start + 16 <= 344])
        pieces.append(linear(patches, f"in_layer_{part}", weights))
    hidden_ED = gpt2(np.concatenate(pieces), weights)
    total, tokens = np.zeros(96), []
    for number, part in enumerate(parts):
        own_PD = hidden_ED[51 * number + 9 : 51 * (number + 1)]
        assert own_PD.shape[0] == 42
        tokens.append(own_PD.mean(axis=0))
        total += linear(own_PD.reshape(-1), f"out_layer_{part}", weights)
    return np.concatenate([(total - shift) / (scale + 1e-10) * deviation + mean, np.mean(tokens, axis=0)])


def decompose(series_T: Array, decomposition: str, weights: Any) -> dict[str, Array]:
    if decomposition == "stl":
        fit = STL(series_T, period=50).fit()
        return {"trend": fit.trend, "season": fit.seasonal, "noise": fit.resid}
    padded_T = np.concatenate([[series_T[0]] * 12, series_T, [series_T[-1]] * 12])
    trend_T = linear(np.convolve(padded_T, np.ones(25) / 25, "valid"), "map_trend", weights)
    hidden = np.maximum(0, linear(series_T - trend_T, "map_season.0", weights))
    season_T = linear(hidden, "map_season.2", weights)
    return {"trend": trend_T, "season": season_T, "noise": series_T - trend_T - season_T}


def gpt2(hidden_ED: Array, weights: Any) -> Array:
    n_tokens = len(hidden_ED)
    n_heads = SHAPES["tiny"].n_heads
    hidden_ED = hidden_ED + weights[f"{GPT2}wpe.weight"][:n_tokens]
    ahead_EE = np.triu(np.ones((n_tokens, n_tokens), bool), k=1)
    for number in range(SHAPES["tiny"].n_layers):
        layer = f"{GPT2}h.{number}"
        normed_ED = layer_norm(hidden_ED, f"{layer}.ln_1", weights)
        base, lora = f"{layer}.attn.c_attn.base_layer", f"{layer}.attn.c_attn.lora_"
        joint = normed_ED @ weights[f"{base}.weight"] + weights[f"{base}.bias"]
        joint += normed_ED @ weights[f"{lora}A.default.weight"].T @ weights[f"{lora}B.default.weight"].T  # 16 / 16
        heads = []
        for query, key, value in zip(
            *(np.split(each, n_heads, axis=1) for each in np.split(joint, 3, axis=1)), strict=True
        ):
            score_EE = query @ key.T / math.sqrt(query.shape[1])
            score_EE[ahead_EE] = -np.inf
            share_EE = np.exp(score_EE - score_EE.max(axis=1, keepdims=True))
            heads.append(share_EE / share_EE.sum(axis=1, keepdims=True) @ value)
        hidden_ED = hidden_ED + inputs_first(np.concatenate(heads, axis=1), f"{layer}.attn.c_proj", weights)
        normed_ED = layer_norm(hidden_ED, f"{layer}.ln_2", weights)
        wide = inputs_first(normed_ED, f"{layer}.mlp.c_fc", weights)
        wide = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
        hidden_ED = hidden_ED + inputs_first(wide, f"{layer}.mlp.c_proj", weights)
    return layer_norm(hidden_ED, f"{GPT2}ln_f", weights)


def layer_norm(hidden_ED: Array, name: str, weights: Any) -> Array:
    centred = hidden_ED - hidden_ED.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    return np.asarray(normed * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def linear(x: Array, name: str, weights: Any) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])


def inputs_first(x: Array, name: str, weights: Any) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"] + weights[f"{name}.bias"])
