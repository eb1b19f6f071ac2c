"""EnECG: an ensemble of frozen experts, each with a small head, mixed by a gate that reads some leads.

After Xu et al., "EnECG: Efficient Ensemble Learning for ECG Multi-task Foundation Model" (arXiv:2511.22935), with its
parts made to do what they are for: one data set gives all experts and the label the same record, every new layer is
trained, probabilities are mixed, and targets of a regression are standardised.

B: records, L: leads, T: timesteps, E: experts, D: features of an expert, K: outputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables import lora, trainer
from trainables.back_propagation import BackPropagation
from trainables.config import Governed, TrainConfig, check_config
from trainables.enecg_loss import EnsembleCriterion, PackedAnswers
from trainables.enecg_mixing import Averaged, Gate, Mixing, Stacking, StaticWeights, UniformWeights, WeightedMixing
from trainables.enecg_network import EnsembleNetwork, Mixture
from trainables.enecg_stacking import N_MEMBERS, StackingCriterion, deal_parts
from trainables.enecg_step import EnsembleStep
from trainables.expert_features import with_expert_features
from trainables.experts.ecg_fm import EcgFmConfig
from trainables.experts.expert import Expert
from trainables.experts.table import AnyExpertConfig, build_expert
from trainables.losses import Criterion
from trainables.macro_scores import macro_names, macro_scores
from trainables.method import Method
from trainables.seeds import Use, derive_seed
from trainables.step import Step
from trainables.trial import Trial
from trainables.windows import window_signal

MixingName = Literal["gate", "static", "uniform", "stacking"]
Lora = Literal["none", "heads", "gate", "both"]
Width = Annotated[int, Field(ge=1, le=4096)]
_GATE = ("mixing", frozenset({"gate"}))
_LORA = ("lora", frozenset({"heads", "gate", "both"}))


class EnecgConfig(TrainConfig):
    """The parameters of `method: enecg`."""

    governed: ClassVar[Governed] = {
        **TrainConfig.governed,
        "gate_leads": _GATE,
        "gate_width": _GATE,
        "top_k": _GATE,
        "balance_weight": _GATE,
        "average": ("mixing", frozenset({"gate", "static", "uniform"})),
        "rank": _LORA,
        "alpha": _LORA,
    }

    experts: tuple[AnyExpertConfig, ...] = Field(
        (EcgFmConfig(kind="ecg_fm"),),
        strict=False,
        min_length=1,
        description="The frozen networks, each by its `kind` and its own keys: "
        "[{kind: ecg_fm, weights: wanglab/ecg-fm}, ...]. They read the records of the store in mV, and prepare them "
        "themselves.",
    )
    head_width: Width = Field(
        256, description="Width of the hidden layers of the experts' heads.", json_schema_extra={"unit": "units"}
    )
    head_depth: int = Field(
        3, ge=1, le=8, description="Layers of each expert's head.", json_schema_extra={"unit": "layers"}
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout behind each hidden layer of heads and gate.")
    mixing: MixingName = Field(
        "gate",
        description="How the experts' answers become one. gate: with weights that follow from the record; static: with "
        "learned weights; uniform: their mean; stacking: by a linear layer over all of them, which learns from "
        "patients that the heads do not: each expert has five heads, and each head leaves out a fifth of them. What "
        "static and stacking learn has thirty times the heads' lr.",
    )
    average: Averaged = Field(
        "probabilities",
        description="What is averaged where labels are classes: the experts' probabilities, or their logits.",
    )
    gate_leads: Literal["all"] | Annotated[tuple[str, ...], Field(strict=False, min_length=1)] = Field(
        ("II",), description="gate: the leads that it reads, a list of names, or all."
    )
    gate_width: Width = Field(256, description="gate: width of its hidden layer.", json_schema_extra={"unit": "units"})
    top_k: int | None = Field(
        None,
        ge=1,
        description="gate: how many experts answer for a record, those with the largest weights; null: all.",
        json_schema_extra={"unit": "experts"},
    )
    balance_weight: float = Field(
        0.0, ge=0, description="gate: weight of the loss that spreads the records over the experts; 0: off."
    )
    aux_weight: float = Field(
        1.0,
        ge=0,
        description="Weight of the mean loss of the experts' heads, each alone, beside that of the whole; 0: heads "
        "learn from the whole alone.",
    )
    lora: Lora = Field(
        "none",
        description="Which new layers learn by updates of low rank beside random weights that stay, as EnECG's do; the "
        "last layer of each head and of the gate is trained whole.",
    )
    rank: int = Field(8, ge=1, le=1024, description="lora: rank of the updates.")
    alpha: int = Field(32, ge=1, description="lora: scale of the updates: alpha / rank.")
    feature_cache: Literal["auto", "off"] = Field(
        "auto",
        description="auto: what the experts make of a record is computed once for all trials, kept beside the store, "
        "unless records are augmented or cropped.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> EnecgConfig:
        if self.top_k is not None and self.top_k > len(self.experts):
            raise ValueError(
                f"top_k must not exceed the number of experts, but got top_k={self.top_k} of {len(self.experts)}"
            )
        if self.mixing == "stacking" and self.aux_weight == 0:
            raise ValueError(
                "mixing: stacking learns behind heads that learn by themselves: aux_weight must be above 0, but got 0"
            )
        if self.lora in ("gate", "both") and self.mixing != "gate":
            raise ValueError(f"lora: {self.lora} needs mixing: gate, but got mixing: {self.mixing}")
        if len(set(self.experts)) < len(self.experts):
            raise ValueError("experts must differ, but one is named twice; leave it out, or change a key of it")
        return self

    @property
    def keeps_features(self) -> bool:
        """Whether trials take the experts' features from the cache."""
        return self.feature_cache == "auto" and not self.varies

    def variant(self, experts: Sequence[AnyExpertConfig], mixing: MixingName) -> EnecgConfig:
        """Return the same configuration with other experts or another mixing; what these have no use for is default."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values |= {"experts": tuple(experts), "mixing": mixing}
        if self.top_k is not None and self.top_k > len(experts):
            values["top_k"] = len(experts)
        if mixing != "gate":
            values["lora"] = {"gate": "none", "both": "heads"}.get(self.lora, self.lora)
        if mixing == "stacking" and self.aux_weight == 0:
            values["aux_weight"] = 1.0
        for name, (governor, allowed) in self.governed.items():
            if values[governor] not in allowed:
                values[name] = type(self).model_fields[name].default
        return EnecgConfig.model_validate(values)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """What the experts are called: by kind, with a number where several are of one."""
        kinds = [config.kind for config in self.experts]
        return tuple(
            kind if kinds.count(kind) == 1 else f"{kind}_{kinds[: index + 1].count(kind)}"
            for index, kind in enumerate(kinds)
        )


# ------------------------------------------------------------------ the model


def build_model(config: EnecgConfig, signal: Signal, label_set: LabelSet) -> EnsembleNetwork:
    """Build experts, heads and mixing, ecg_BLT (mV) -> logits_BK; the experts are frozen, all else is trained.

    The experts have their weights, unless they lie on the meta device, and are shared by all models of a process; the
    rest is initialised from torch's global generator. The state dict leaves the experts' weights out.

    Raises:
        ValueError: the records lack what an expert or the gate reads; weights can't be had.
    """
    experts, seen = _build_experts(config, signal), window_signal(config, signal)
    rows = _gate_rows(config, signal)
    widths = [expert.n_features for expert in experts]
    n_members = N_MEMBERS if config.mixing == "stacking" else 1
    heads = [_build_head(config, width, label_set.n_outputs) for _ in range(n_members) for width in widths]
    mixing = _build_mixing(config, len(experts), len(rows) * seen.n_timesteps, label_set)
    mixture = Mixture(widths, heads, mixing, len(rows), seen.n_timesteps, label_set)
    origin = ", ".join(
        f"{name}: {each.weights}" for name, each in zip(config.expert_names, config.experts, strict=True)
    )
    return EnsembleNetwork(experts, mixture, rows, seen, origin)


def _build_experts(config: EnecgConfig, signal: Signal) -> list[Expert]:
    if signal.standardise_windows:
        raise ValueError(
            "experts read mV and normalise for themselves: leave `zscore: {per: segment}` out of data.preprocess"
        )
    seen = window_signal(config, signal)
    return [frozen_expert(each, seen) for each in config.experts]


def frozen_expert(config: AnyExpertConfig, signal: Signal) -> Expert:
    """Return an expert with its weights, the same module whenever a process asks: nothing changes it, and reading its
    weights takes longer than a trial. On the meta device one of its own, without weights."""
    is_meta = torch.empty(0).is_meta
    return build_expert(config, signal) if is_meta else _shared_expert(config, signal)


@lru_cache(maxsize=32)
def _shared_expert(config: AnyExpertConfig, signal: Signal) -> Expert:
    return build_expert(config, signal)


def _gate_rows(config: EnecgConfig, signal: Signal) -> tuple[int, ...]:
    """Return the leads that the gate reads; none without a gate."""
    if config.mixing != "gate":
        return ()
    if config.gate_leads == "all":
        return tuple(range(len(signal.lead_names)))
    known = {name.lower(): row for row, name in enumerate(signal.lead_names)}
    lacking = [name for name in config.gate_leads if name.lower() not in known]
    if lacking:
        raise ValueError(
            f"gate_leads must be among the records' leads {', '.join(signal.lead_names)}, but got {lacking[0]!r}"
        )
    return tuple(known[name.lower()] for name in config.gate_leads)


def _build_head(config: EnecgConfig, n_features: int, n_outputs: int) -> nn.Sequential:
    widths = [n_features, *[config.head_width] * (config.head_depth - 1)]
    hidden = [
        layer
        for n_inputs, width in itertools.pairwise(widths)
        for layer in (nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(config.dropout))
    ]
    head = nn.Sequential(*hidden, nn.Linear(widths[-1], n_outputs))
    if config.lora in ("heads", "both"):
        _adapt(head, config)
    return head


def _build_mixing(config: EnecgConfig, n_experts: int, n_gate_inputs: int, label_set: LabelSet) -> Mixing:
    if config.mixing == "stacking":
        return Stacking(n_experts, label_set.n_outputs)
    if config.mixing == "gate":
        gate = Gate(n_gate_inputs, n_experts, config.gate_width, config.dropout, config.top_k)
        if config.lora in ("gate", "both"):
            _adapt(gate.layers, config)
        return WeightedMixing(gate, config.average, label_set.task)
    weighing = StaticWeights(n_experts) if config.mixing == "static" else UniformWeights()
    return WeightedMixing(weighing, config.average, label_set.task)


def _adapt(layers: nn.Sequential, config: EnecgConfig) -> None:
    """Let all linear layers but the last learn by updates of low rank."""
    *hidden, last = (name for name, layer in layers.named_children() if isinstance(layer, nn.Linear))
    lora.add_lora(layers, config.rank, config.alpha, dict.fromkeys(hidden, 1))
    layers.get_submodule(last).requires_grad_(True)


def finish(model: nn.Module) -> nn.Module:
    """Merge the updates into their layers, in place; the state dict is then whole."""
    assert isinstance(model, EnsembleNetwork)
    merged = lora.merged(model.mixture)
    assert isinstance(merged, Mixture)
    model.mixture = merged
    return model.release()


def onnx_parts(model: nn.Module, signal: Signal) -> Sequence[tuple[nn.Module, Signal]]:
    """Return each expert, which all trials share, and what is trained, which differs between them."""
    assert isinstance(model, EnsembleNetwork)
    packed = Signal(("packed",), signal.fs_hz, model.mixture.n_inputs)
    return [*((expert, signal) for expert in model.experts), (model.mixture, packed)]


# ------------------------------------------------------------------ training


def train(config: EnecgConfig, dataset: Dataset, trial: Trial) -> None:
    """Train heads and mixing behind the experts; see `trainables.trainer.fit`."""
    torch.manual_seed(derive_seed(Use.INIT, trial.seed))
    model = build_model(config, dataset.signal, dataset.label_set).to(trial.device)
    if config.keeps_features:
        kinds = [each.kind for each in config.experts]
        dataset = with_expert_features(model, kinds, config.precision, dataset, trial.device)
    model.fit_scale(dataset.train, derive_seed(Use.SHUFFLE, trial.seed))

    def build_step(model: nn.Module, criterion: Criterion, n_steps: int) -> Step:
        assert isinstance(model, EnsembleNetwork)
        whole, part_NM = _build_loss(config, criterion, model, dataset, trial)
        return EnsembleStep(BackPropagation(PackedAnswers(model), whole, config, trial), part_NM)

    more_scores = partial(macro_scores, label_set=dataset.label_set)
    trainer.fit(model, config, dataset, trial, build_step, more_scores)


def _build_loss(
    config: EnecgConfig, criterion: Criterion, model: EnsembleNetwork, dataset: Dataset, trial: Trial
) -> tuple[EnsembleCriterion | StackingCriterion, NDArray[np.float32]]:
    """Return the loss of all answers, and the parts that stacking deals the training records to, part_NM."""
    sizes = len(model.experts), model.mixture.n_outputs
    if config.mixing == "stacking":
        part_NM = deal_parts(dataset.train, dataset.label_set, derive_seed(Use.PART, trial.seed))
        return StackingCriterion(criterion, *sizes, config.aux_weight), part_NM
    no_part_NM = np.empty((dataset.train.n_records, 0), np.float32)
    return EnsembleCriterion(criterion, *sizes, config.aux_weight, config.balance_weight), no_part_NM


def reports(task: Task) -> frozenset[str]:
    """Return the names of what every report has."""
    return trainer.reports(task) | {f"val/{name}" for name in macro_names(task)}


def check(configs: Sequence[EnecgConfig], signal: Signal, label_set: LabelSet) -> None:
    """Refuse what no trial could train: keys that contradict the labels, leads and weights that can't be had.

    Weights of the hub are fetched to its cache.

    Raises:
        ValueError: the first that is wrong; one line, with the way out.
    """
    for config in configs:
        check_config(config, signal, label_set)
        if label_set.task == "regression" and config.average != "probabilities":
            raise ValueError(f"average has no meaning for regression labels: leave it out, but got {config.average!r}")
        _gate_rows(config, signal)
        _build_experts(config, signal)


ENECG = Method("enecg", EnecgConfig, build_model, train, reports, finish, check, onnx_parts)
