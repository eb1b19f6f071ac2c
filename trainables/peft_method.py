"""Parameter-efficient fine-tuning of pretrained backbones: adapters, LoRA and its kin, and their baselines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.dataset import Dataset, LabelSet, Signal
from trainables.back_propagation import BackPropagation
from trainables.backbone_prefix import with_cached_prefix
from trainables.backbones.architecture import architecture_of, build_network
from trainables.backbones.backbone import Backbone, build_backbone
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.backbones.preflight import check_backbones
from trainables.backbones.weights import load_pretrained
from trainables.config import Governed
from trainables.losses import Criterion
from trainables.method import Method
from trainables.normalisation import GlobalStandardise
from trainables.seeds import Use, derive_seed
from trainables.standardise import Standardise
from trainables.step import Step
from trainables.trainer import fit, reports
from trainables.trial import State, Trial
from trainables.tuning.adalora import RankAllocation
from trainables.tuning.bottleneck import Activation, insert_adapters
from trainables.tuning.frozen_weights import FrozenWeights
from trainables.tuning.peft_types import PEFT_TYPES, Targets, inject, merge, peft_config
from trainables.tuning.selections import SELECTIONS, transformer_norms

Tuning = Literal[
    "lora", "rslora", "dora", "adalora", "ia3", "vera", "oft", "houlsby", "pfeiffer", "parallel",
    "linear_probe", "full", "last_layers", "bias", "ln_tuning",
    "adamss", "beft", "boft", "c3a", "deft", "delora", "fourierft", "glora", "gralora", "hira", "hra", "lily",
    "loha", "lokr", "miss", "osf", "peanut", "psoft", "pvera", "randlora", "road", "supertuning", "tinylora",
    "unilora", "vblora", "waveft",
]  # fmt: skip
ADAPTERS = ("houlsby", "pfeiffer", "parallel")


def _types_with(field: str) -> frozenset[str]:
    """Return the tunings that use one of our parameters."""
    named = {name for name, row in PEFT_TYPES.items() if field in row.widths or (field == "alpha" and row.alpha)}
    return frozenset(named)


_BOTTLENECK = ("tuning", frozenset(ADAPTERS))
_WITH_WIDTH = frozenset(name for name, row in PEFT_TYPES.items() if row.widths) | {*ADAPTERS}


class PeftConfig(BackboneConfig):
    """The parameters of `method: peft`."""

    governed: ClassVar[Governed] = {
        **BackboneConfig.governed,
        "rank": ("tuning", _types_with("rank")),
        "block_size": ("tuning", _types_with("block_size")),
        "n_coefficients": ("tuning", _types_with("n_coefficients")),
        "alpha": ("tuning", _types_with("alpha")),
        "dropout": ("tuning", frozenset(name for name, row in PEFT_TYPES.items() if row.dropout) | {*ADAPTERS}),
        "target_modules": ("tuning", frozenset(PEFT_TYPES) - {"ia3"}),
        "bottleneck": _BOTTLENECK,
        "activation": _BOTTLENECK,
        "train_norms": _BOTTLENECK,
        "n_layers": ("tuning", frozenset({"last_layers"})),
        "parameter_budget": ("tuning", _WITH_WIDTH),
    }

    tuning: Tuning = Field(
        "lora",
        description="What of the backbone is trained. houlsby, pfeiffer, parallel: bottleneck adapters; linear_probe: "
        "nothing; full: all of it; last_layers: the last `n_layers`; bias: the transformer's biases; ln_tuning: its "
        "norms; the rest: types of the `peft` library. Pooling and head are trained in all.",
    )
    rank: int = Field(8, ge=1, le=1024, description="Rank of LoRA and its kin; of adalora the mean one at the end.")
    block_size: int = Field(
        8, ge=2, le=1024, description="Size of the blocks of oft, boft, c3a, road, vblora; divides the hidden size."
    )
    n_coefficients: int = Field(
        64, ge=1, description="Trained numbers a layer of fourierft, waveft, tinylora; of unilora in all."
    )
    alpha: int = Field(16, ge=1, description="Scale of what LoRA and its kin add: alpha / rank, or alpha / sqrt(rank).")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout inside the adapters.")
    target_modules: Targets = Field("query_value", description="Layers of each transformer layer that are adapted.")
    bottleneck: int = Field(
        16, ge=1, le=4096, description="Width of bottleneck adapters.", json_schema_extra={"unit": "units"}
    )
    activation: Activation = Field("gelu", description="Of bottleneck adapters.")
    train_norms: bool = Field(False, description="Bottleneck adapters: train the transformer's norms with them.")
    n_layers: int = Field(1, ge=1, description="last_layers: how many.", json_schema_extra={"unit": "layers"})
    parameter_budget: int | None = Field(
        None,
        ge=1,
        description="Most parameters of the backbone that are trained: the largest rank, bottleneck, block_size or "
        "n_coefficients within it is taken, in the place of a given one; methods are thus compared at equal size.",
        json_schema_extra={"unit": "parameters"},
    )
    head_lr: float | None = Field(
        None, gt=0, description="Peak learning rate of pooling and head; null: `lr`, which is the backbone's."
    )
    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout before the last layer.")
    normalisation: Literal["segment", "global", "none"] = Field(
        "segment",
        description="z-score inside the model: of each lead of each window, or with mean and deviation of all training "
        "records; none: what `data.preprocess` says alone.",
    )
    weights_seed: int = Field(
        0, ge=0, description="Of `weights: random`: the same backbone in every trial, whatever the trial's seed."
    )

    @model_validator(mode="after")
    def _budget_alone(self) -> PeftConfig:
        if self.parameter_budget is None:
            return self
        width = _width_of(self.tuning)
        assert width is not None  # `governed` has seen to it
        if getattr(self, width) != type(self).model_fields[width].default:
            raise ValueError(
                f"parameter_budget picks {width} itself, but got parameter_budget={self.parameter_budget} and "
                f"{width}={getattr(self, width)}; give one of them"
            )
        return self


def build_model(config: PeftConfig, signal: Signal, label_set: LabelSet) -> BackboneClassifier:
    """Build backbone, adapters and head, ecg_BLT -> logits_BK; what is trained wants a gradient, all else is frozen.

    The backbone has its pretrained weights, unless it lies on the meta device; the rest is initialised from torch's
    global generator. Its state dict leaves the backbone's frozen weights out.

    Raises:
        ValueError: the signal does not suit the backbone; the weights can't be had; a width does not suit the layers.
    """
    if signal.standardise_windows and config.normalisation == "global":
        raise ValueError(
            "normalisation: global is undone by the z-score of each window that data.preprocess ends with; leave "
            "`zscore: {per: segment}` out of data.preprocess"
        )
    config = resolve_width(config)
    backbone = _build_backbone(config, signal)
    pretrained = {id(parameter) for parameter in backbone.network.parameters()}
    _tune(backbone.network, config)
    head = nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(backbone.hidden_size, label_set.n_outputs))
    normalise = _NORMALISERS.get(config.normalisation)
    model = BackboneClassifier(backbone, head, signal, label_set, None if normalise is None else normalise())
    frozen = [name for name, p in model.named_parameters() if id(p) in pretrained and not p.requires_grad]
    if frozen:
        model.frozen_weights = FrozenWeights(model, frozenset(frozen), _origin(config))
    return model


def train(config: PeftConfig, dataset: Dataset, trial: Trial) -> None:
    """Train what `config.tuning` trains; see `trainables.trainer.fit`."""
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set)
    if isinstance(model.normalise, GlobalStandardise):
        model.normalise.fit(dataset.train, len(dataset.signal.lead_names))
    dataset = with_cached_prefix(model, config, dataset, trial.device)

    def build_step(model: nn.Module, criterion: Criterion, n_steps: int) -> PeftStep:
        assert isinstance(model, BackboneClassifier)
        return PeftStep(BackPropagation(model, criterion, config, trial), config, model, n_steps)

    fit(model, config, dataset, trial, build_step)


def finish(model: nn.Module) -> nn.Module:
    """Merge the adapters into their layers, in place; the state dict is then whole."""
    assert isinstance(model, BackboneClassifier)
    if model.frozen_weights is not None:
        model.frozen_weights.release()
        model.frozen_weights = None
    merge(model.backbone.network)
    return model


class PeftStep(Step):
    """Back-propagation, with rates of their own for backbone and head, and AdaLoRA's budget.

    Args:
        n_steps: of the whole training.
    """

    def __init__(self, plain: BackPropagation, config: PeftConfig, model: BackboneClassifier, n_steps: int) -> None:
        self._plain, self._n_steps = plain, n_steps
        self._head_scale = 1.0 if config.head_lr is None else config.head_lr / config.lr
        self._ranks = None
        if config.tuning == "adalora":
            options = peft_config("adalora", config.target_modules, _options(config))
            self._ranks = RankAllocation(model.backbone.network, options)

    def gradient(self, ecg_BLT: Tensor, targets_BJ: Tensor, number: int) -> Tensor:
        sums_2 = self._plain.gradient(ecg_BLT, targets_BJ, number)
        if self._ranks is not None:
            self._ranks.add_penalty()
        return sums_2

    def lr_scale(self, name: str) -> float:
        return self._head_scale if name.startswith(("head.", "backbone.pool.")) else 1.0

    def after(self, number: int) -> None:
        if self._ranks is not None:
            self._ranks.allocate(number + 1, self._n_steps)

    def state(self) -> State:
        return {} if self._ranks is None else self._ranks.state()

    def load(self, state: State) -> None:
        if self._ranks is not None:
            self._ranks.load(state)


# ------------------------------------------------------------------ the backbone

_NORMALISERS: Mapping[str, type[nn.Module]] = {"segment": Standardise, "global": GlobalStandardise}


def _build_backbone(config: PeftConfig, signal: Signal) -> Backbone:
    """Build the backbone with its weights: random ones follow from `weights_seed` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(Use.BACKBONE, config.weights_seed))
        backbone = build_backbone(config, signal)
    if not _is_meta(backbone):
        load_pretrained(backbone, config)
    return backbone


def _is_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())


def _origin(config: PeftConfig) -> str:
    return f"weights: random, weights_seed: {config.weights_seed}" if config.weights == "random" else config.weights


# ------------------------------------------------------------------ what is trained


def _tune(network: Any, config: PeftConfig) -> None:
    """Freeze all but what `config.tuning` trains, and add what it adds, in place."""
    tuning, own = config.tuning, frozenset(id(parameter) for parameter in network.parameters())
    if tuning in SELECTIONS:
        chosen = {id(parameter) for parameter in SELECTIONS[tuning](network, config.n_layers)}
    elif tuning == "houlsby" or tuning == "pfeiffer" or tuning == "parallel":  # noqa: PLR1714  (narrows the type)
        hidden_size = network.config.hidden_size
        layers = network.encoder.layers
        insert_adapters(layers, tuning, hidden_size, config.bottleneck, config.activation, config.dropout)
        norms = transformer_norms(network) if config.train_norms else ()
        chosen = {id(parameter) for parameter in norms}
    else:
        _inject(network, config)
        return
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in chosen or id(parameter) not in own)


def _inject(network: nn.Module, config: PeftConfig) -> None:
    """Add adapters of the `peft` library; those that it can't make without memory are made in memory, and forgotten."""
    on_cpu = _is_meta(network) and not PEFT_TYPES[config.tuning].on_meta
    if on_cpu:
        network.to_empty(device="cpu")
        for parameter in network.parameters():
            parameter.data.fill_(1.0)
    with torch.device("cpu") if on_cpu else nullcontext():
        inject(network, config.tuning, config.target_modules, _options(config))
    if on_cpu:
        network.to("meta")


def _options(config: PeftConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ("rank", "block_size", "n_coefficients", "alpha", "dropout")}


# ------------------------------------------------------------------ equal sizes


def resolve_width(config: PeftConfig) -> PeftConfig:
    """Return `config` with the width that trains most within its `parameter_budget`, if it has one.

    Raises:
        ValueError: every width trains more.
    """
    if config.parameter_budget is None:
        return config
    width = _width_of(config.tuning)
    assert width is not None  # by the config's own rule
    shape = PeftConfig().model_copy(update={name: getattr(config, name) for name in _SHAPE})
    candidates = _candidates(shape, width)

    def n_trained(candidate: int) -> int:
        return _n_trained(shape.model_copy(update={width: candidate}))

    if n_trained(candidates[0]) > n_trained(candidates[-1]):
        candidates = candidates[::-1]  # fewer with growing width
    n_within = bisect_right(candidates, config.parameter_budget, key=n_trained)
    if n_within == 0:
        raise ValueError(
            f"parameter_budget={config.parameter_budget} is too small: {config.tuning} with {width}={candidates[0]} "
            f"trains {n_trained(candidates[0])} parameters of {config.backbone} {config.size}"
        )
    return config.model_copy(update={width: candidates[n_within - 1], "parameter_budget": None})


_SHAPE = ("backbone", "size", "tuning", "target_modules", "train_norms")
_MOST: Mapping[str, int] = {"rank": 256, "bottleneck": 4096, "n_coefficients": 4096}


def _width_of(tuning: str) -> str | None:
    """Return the parameter that sets how much a tuning trains; None where there is none."""
    if tuning in ADAPTERS:
        return "bottleneck"
    return next(iter(PEFT_TYPES[tuning].widths), None) if tuning in PEFT_TYPES else None


def _candidates(config: PeftConfig, width: str) -> list[int]:
    hidden_size = architecture_of(config.backbone, config.size).hidden_size
    if width == "block_size":
        return [size for size in range(2, hidden_size + 1) if hidden_size % size == 0]
    step = PEFT_TYPES[config.tuning].step if config.tuning in PEFT_TYPES else 1
    most = min(hidden_size, _MOST[width]) if width == "rank" else _MOST[width]
    return list(range(step, most + 1, step))


@lru_cache(maxsize=4096)
def _n_trained(config: PeftConfig) -> int:
    """Return how many parameters of the backbone are trained."""
    with torch.device("meta"):
        network = build_network(architecture_of(config.backbone, config.size))
        _tune(network, config)
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


PEFT = Method("peft", PeftConfig, build_model, train, reports, finish, check_backbones)
