"""TEMPO (Cao et al. 2023, arXiv:2310.04948) as an expert: GPT-2 over the patches of trend, season and residual.

Layout and numbers are those of github.com/DC-research/TEMPO (tempo/models/TEMPO.py, tempo/configs/run_TEMPO.yml) and of
its huggingface.co/Melady/TEMPO: no pool of prompts, but the tokens of three sentences; LoRA (rank 16, alpha 16) on the
attention's first layer, which is added to the weights when they are read. The names in the file are read from the
module definitions on both sides; no file was opened.

R, S: windows of one lead, T: timesteps, P: patches, Q: tokens of a prompt, D: width, F: forecast timesteps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from data.dataset import Signal
from trainables.experts.expert import ExpertInput
from trainables.experts.moving_average import moving_average
from trainables.experts.series_expert import SeriesConfig, SeriesExpert
from trainables.experts.stl import stl_matrices
from trainables.experts.weights import fill, find_weights, read_tensors

TempoSize = Literal["tiny", "80m"]
Part = Literal["trend", "season", "noise"]

N_TIMESTEPS: Final = 336
FS_HZ: Final = 33.6  # so that a window is 10 s, as EnECG gives it an ECG
N_FORECAST: Final = 96
PATCH: Final = 16
STRIDE: Final = 8
N_PATCHES: Final = (N_TIMESTEPS - PATCH) // STRIDE + 2  # the last timestep is repeated for one more
PERIOD: Final = 50  # EnECG's, in timesteps
TREND_KERNEL: Final = 25
NORM_EPS: Final = 1e-5
PARTS: Final[tuple[Part, ...]] = ("trend", "season", "noise")
PUBLIC: Final[Mapping[str, str]] = MappingProxyType({"80m": "Melady/TEMPO/TEMPO-80M_v1.pth"})

# GPT-2's tokens of "Predict the future time step given the trend" (season, residual).
_SENTENCE: Final = (47, 17407, 262, 2003, 640, 2239, 1813, 262)
_PROMPTS: Final[Mapping[Part, tuple[int, ...]]] = MappingProxyType(
    {"trend": (*_SENTENCE, 5182), "season": (*_SENTENCE, 1622), "noise": (*_SENTENCE, 29598)}
)
_GPT2: Final = "gpt2_trend.base_model.model."  # the one GPT-2 of all parts, as `peft` wraps it
_WTE: Final = f"{_GPT2}wte.weight"
# Causal masks of older versions of `transformers`; layers that are made but never run.
_UNUSED: Final = re.compile(
    r"h\.\d+\.attn\.(masked_)?bias|(mul_season|map_resid|rev_in_season|rev_in_noise|mu|sigma|nu)\..+"
)


@dataclass(frozen=True)
class Shape:
    """What a size fixes."""

    d_model: int
    n_heads: int
    n_layers: int


SHAPES: Final[Mapping[TempoSize, Shape]] = MappingProxyType({"tiny": Shape(64, 4, 2), "80m": Shape(768, 12, 6)})


class TempoConfig(SeriesConfig):
    """TEMPO: 10 s of a lead in 336 timesteps, from which it forecasts 96."""

    available: ClassVar[tuple[str, ...]] = ("forecast", "embeddings")

    kind: Literal["tempo"] = "tempo"
    size: TempoSize = Field("tiny", description="Width and depth; tiny is for a CPU, 80m is the published one.")
    features: tuple[str, ...] = Field(
        ("forecast",),
        strict=False,
        min_length=1,
        description="forecast: the next 96 timesteps, in deviations; embeddings: the mean token of the three parts.",
    )
    decomposition: Literal["stl", "learned"] = Field(
        "stl",
        description="stl: trend and season of a period of 50 timesteps, as EnECG gives them to it; learned: a moving "
        "average of 25 and the layers that TEMPO trained to find what STL finds, as it runs by itself.",
    )


class TempoNetwork(nn.Module):
    """series_ST -> (forecast_SF, embedding_SD). Names are as published but for those of GPT-2 and the prompts."""

    trend_TT: Tensor
    season_TT: Tensor

    def __init__(self, shape: Shape, decomposition: Literal["stl", "learned"]) -> None:
        super().__init__()
        d_model = shape.d_model
        self.prompt_layers = _each(lambda: nn.Linear(d_model, d_model))
        self.in_layers = _each(lambda: nn.Linear(PATCH, d_model))
        self.out_layers = _each(lambda: nn.Linear(d_model * N_PATCHES, N_FORECAST))
        self.map_trend = nn.Linear(N_TIMESTEPS, N_TIMESTEPS)
        self.map_season = nn.Sequential(
            nn.Linear(N_TIMESTEPS, 4 * N_TIMESTEPS), nn.ReLU(), nn.Linear(4 * N_TIMESTEPS, N_TIMESTEPS)
        )
        self.affine_weight, self.affine_bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
        self.prompts = nn.ParameterDict({part: torch.randn(len(_PROMPTS[part]), d_model) * 0.02 for part in PARTS})
        self.gpt2: Any = _build_gpt2(shape)
        self.decomposition = decomposition
        if decomposition == "stl":
            for name, matrix in zip(("trend_TT", "season_TT"), stl_matrices(N_TIMESTEPS, PERIOD), strict=True):
                self.register_buffer(name, torch.from_numpy(matrix), persistent=False)

    def forward(self, series_ST: Tensor) -> tuple[Tensor, Tensor]:
        mean_S1 = series_ST.mean(dim=1, keepdim=True)
        deviation_S1 = (series_ST.var(dim=1, keepdim=True, unbiased=False) + NORM_EPS).sqrt()
        normed_ST = (series_ST - mean_S1) / deviation_S1 * self.affine_weight + self.affine_bias
        tokens = self._run(self._decompose(normed_ST))
        summed_SF = torch.stack([self.out_layers[part](tokens[part].flatten(1)) for part in PARTS]).sum(dim=0)
        normed_SF = (summed_SF - self.affine_bias) / (self.affine_weight + NORM_EPS * NORM_EPS)
        embedding_SD = torch.stack([tokens[part].mean(dim=1) for part in PARTS]).mean(dim=0)
        return normed_SF * deviation_S1 + mean_S1, embedding_SD

    def _decompose(self, series_ST: Tensor) -> dict[Part, Tensor]:
        if self.decomposition == "stl":
            trend_ST, season_ST = series_ST @ self.trend_TT.T, series_ST @ self.season_TT.T
        else:
            trend_ST = self.map_trend(moving_average(series_ST, TREND_KERNEL))
            season_ST = self.map_season(series_ST - trend_ST)
        return {"trend": trend_ST, "season": season_ST, "noise": series_ST - trend_ST - season_ST}

    def _run(self, parts: Mapping[Part, Tensor]) -> dict[Part, Tensor]:
        """Return the tokens of every part's patches, (S, P, D)."""
        pieces = []
        for part, series_ST in parts.items():
            prompt_QD = self.prompt_layers[part](self.prompts[part])
            pieces.append(prompt_QD.expand(series_ST.shape[0], -1, -1))
            pieces.append(self.in_layers[part](_patches(series_ST)))
        hidden_SED = _run_gpt2(self.gpt2, torch.cat(pieces, dim=1))
        chunks = hidden_SED.chunk(len(PARTS), dim=1)
        return {part: chunk[:, -N_PATCHES:] for part, chunk in zip(PARTS, chunks, strict=True)}


def _each(build: Any) -> nn.ModuleDict:
    return nn.ModuleDict({part: build() for part in PARTS})


def _patches(series_ST: Tensor) -> Tensor:
    """Return patch_SPT, overlapping by half; the last timestep is repeated as often as a patch moves on."""
    padded_ST = torch.cat([series_ST, series_ST[:, -1:].expand(-1, STRIDE)], dim=1)
    start_P1 = torch.arange(N_PATCHES, device=series_ST.device)[:, None] * STRIDE
    return padded_ST[:, start_P1 + torch.arange(PATCH, device=series_ST.device)]


def _build_gpt2(shape: Shape) -> Any:
    # Here: `transformers` takes seconds to import, which a trial without this expert should not pay.
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=1,  # of its words the network reads the prompts' alone: they are parameters
        bos_token_id=None,
        eos_token_id=None,
        n_embd=shape.d_model,
        n_head=shape.n_heads,
        n_layer=shape.n_layers,
        use_cache=False,
    )
    config._attn_implementation = "eager"  # one way to compute, whatever the library would choose
    gpt2: Any = GPT2Model(config)
    del gpt2.wte
    return gpt2


def _run_gpt2(gpt2: Any, hidden_SED: Tensor) -> Tensor:
    n_tokens = sum(map(len, _PROMPTS.values())) + len(PARTS) * N_PATCHES
    hidden_SED = hidden_SED + gpt2.wpe.weight[:n_tokens]
    ahead_EE = torch.ones(n_tokens, n_tokens, device=hidden_SED.device).triu(diagonal=1)
    mask_11EE = (ahead_EE * torch.finfo(hidden_SED.dtype).min)[None, None]
    for block in gpt2.h:
        hidden_SED = block(hidden_SED, attention_mask=mask_11EE)
    normed_SED: Tensor = gpt2.ln_f(hidden_SED)
    return normed_SED


# ------------------------------------------------------------------ the published file

_NAMES: Final = (  # theirs -> ours
    (r"(in|out|prompt)_layer_(trend|season|noise)\.(weight|bias)", r"\1_layers.\2.\3"),
    (r"rev_in_trend\.(affine_weight|affine_bias)", r"\1"),
    (re.escape(_GPT2) + r"(.+\.c_attn)\.base_layer\.(weight|bias)", r"gpt2.\1.\2"),
    (re.escape(_GPT2) + r"(.+)", r"gpt2.\1"),
)
_LORA: Final = re.compile(re.escape(_GPT2) + r"(.+\.c_attn)\.lora_(A|B)\.default\.weight")


def from_published(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state dict of a published TEMPO, add LoRA to the weights, and keep of the words the prompts'.

    Raises:
        ValueError: a part of LoRA, or of what it is added to, is missing.
    """
    ours = {
        _rename(name): tensor.float()
        for name, tensor in tensors.items()
        if name != _WTE and not _LORA.fullmatch(name) and not _UNUSED.fullmatch(name.removeprefix(_GPT2))
    }
    for layer in {match[1] for match in map(_LORA.fullmatch, tensors) if match}:
        halves = [tensors.get(f"{_GPT2}{layer}.lora_{half}.default.weight") for half in "AB"]
        if halves[0] is None or halves[1] is None or f"gpt2.{layer}.weight" not in ours:
            raise ValueError(f"weights: LoRA of {layer} is not whole; take the published file, or random")
        # inputs x outputs; alpha / rank is 1
        ours[f"gpt2.{layer}.weight"] = ours[f"gpt2.{layer}.weight"] + (halves[1] @ halves[0]).T.float()
    if _WTE in tensors:
        ours |= {f"prompts.{part}": tensors[_WTE][list(tokens)].float() for part, tokens in _PROMPTS.items()}
    return ours


def _rename(name: str) -> str:
    matches = ((re.fullmatch(pattern, name), template) for pattern, template in _NAMES)
    return next((match.expand(template) for match, template in matches if match), name)


class Tempo(SeriesExpert):
    """forecast: 96 a lead, embeddings: the width of GPT-2 a lead."""

    config: TempoConfig

    def __init__(self, config: TempoConfig, signal: Signal) -> None:
        shape = SHAPES[config.size]
        wanted = ExpertInput(config.leads, FS_HZ, N_TIMESTEPS, "lead")
        super().__init__(config, signal, {"forecast": N_FORECAST, "embeddings": shape.d_model}, wanted)
        self.network = TempoNetwork(shape, config.decomposition)

    def load(self) -> None:
        if self.config.weights == "random":
            return
        path = find_weights(self.config, "tempo", self.config.size, PUBLIC)
        tensors = read_tensors(path)
        is_ours = any(name.startswith("gpt2.") for name in tensors)
        fill(self.network, tensors if is_ours else from_published(tensors), path)

    def encode_series(self, series_ST: Tensor) -> Mapping[str, Tensor]:
        forecast_SF, embedding_SD = self.network(series_ST)
        return {"forecast": forecast_SF, "embeddings": embedding_SD}
