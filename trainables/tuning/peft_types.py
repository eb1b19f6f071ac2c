"""The types of the `peft` library that suit linear layers, one line each.

Left out: those that prepend tokens (prompts, prefixes), those that mix several adapters (X-LoRA, Poly), those for
embeddings (trainable tokens) and decoders (shadow); FRoD, whose sparse tensors torch warns of. LN-tuning, which adds
nothing, is in `trainables.tuning.selections`. Fresh adapters change nothing, but for unilora's and vblora's a little.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

ADAPTER = "default"  # peft's name of the one adapter in a model
Width = Literal["rank", "block_size", "n_coefficients"]

Targets = Literal["query_value", "attention", "feed_forward", "all"]
TARGETS: Mapping[Targets, tuple[str, ...]] = {
    "query_value": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "feed_forward": ("intermediate_dense", "output_dense"),
    "all": ("q_proj", "k_proj", "v_proj", "out_proj", "intermediate_dense", "output_dense"),
}


@dataclass(frozen=True)
class PeftType:
    """How a type of `peft` is told what a search space says.

    Attributes:
        kind: `peft`'s name of the type.
        widths: our parameter -> peft's key; the first of them sets how many parameters are trained.
        alpha: peft's key for what scales the adapter; empty: it has none.
        dropout: peft's key; empty: it has none.
        fixed: further keys.
        merges: whether it can be merged into the layer it adapts.
        step: what a rank must be a multiple of.
        on_meta: whether it can be made without memory; `peft` looks at values while it makes the others.
    """

    kind: str
    widths: Mapping[Width, str] = field(default_factory=dict)
    alpha: str = ""
    dropout: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    merges: bool = True
    step: int = 1
    on_meta: bool = True


_RANK: Mapping[Width, str] = {"rank": "r"}
_KEYED = {"save_projection": False}  # random projections are drawn again from their key

PEFT_TYPES: Mapping[str, PeftType] = {
    "lora": PeftType("LORA", _RANK, "lora_alpha", "lora_dropout"),
    "rslora": PeftType("LORA", _RANK, "lora_alpha", "lora_dropout", {"use_rslora": True}),
    "dora": PeftType("LORA", _RANK, "lora_alpha", "lora_dropout", {"use_dora": True}),
    # a budget of 1.5 ranks a layer that falls to one in training: trainables.tuning.adalora
    "adalora": PeftType("ADALORA", {"rank": "target_r"}, "lora_alpha", "lora_dropout", {"total_step": 2}),
    "ia3": PeftType(
        "IA3",
        fixed={"target_modules": ["k_proj", "v_proj", "output_dense"], "feedforward_modules": ["output_dense"]},
    ),
    "vera": PeftType("VERA", _RANK, "", "vera_dropout", _KEYED),
    "pvera": PeftType("PVERA", _RANK, "", "pvera_dropout", _KEYED),
    "randlora": PeftType("RANDLORA", _RANK, "randlora_alpha", "randlora_dropout", _KEYED),
    "oft": PeftType("OFT", {"block_size": "oft_block_size"}, "", "module_dropout"),
    "boft": PeftType("BOFT", {"block_size": "boft_block_size"}, "", "boft_dropout", on_meta=False),
    "hra": PeftType("HRA", _RANK),
    "psoft": PeftType("PSOFT", _RANK, "psoft_alpha", "psoft_dropout"),
    "loha": PeftType("LOHA", _RANK, "alpha", "rank_dropout"),
    "lokr": PeftType("LOKR", _RANK, "alpha", "rank_dropout"),
    "gralora": PeftType("GRALORA", _RANK, "alpha", "gralora_dropout", step=2),
    "glora": PeftType("GLORA", _RANK),
    "delora": PeftType("DELORA", _RANK, "", "module_dropout"),
    "hira": PeftType("HIRA", _RANK, "", "hira_dropout", on_meta=False),
    "miss": PeftType("MISS", _RANK, "", "miss_dropout"),
    "shira": PeftType("SHIRA", _RANK, fixed={"random_seed": 0}, on_meta=False),
    "peanut": PeftType("PEANUT", _RANK, on_meta=False),
    "lily": PeftType("LILY", _RANK, merges=False, on_meta=False),
    "tinylora": PeftType("TINYLORA", {"n_coefficients": "u"}, "", "tinylora_dropout"),
    "unilora": PeftType(
        "UNILORA", {"n_coefficients": "theta_d_length", "rank": "r"}, "", "unilora_dropout", on_meta=False
    ),
    "vblora": PeftType(
        "VBLORA", {"rank": "r", "block_size": "vector_length"}, "", "vblora_dropout", {"num_vectors": 64}, on_meta=False
    ),
    "fourierft": PeftType("FOURIERFT", {"n_coefficients": "n_frequency"}, fixed={"init_weights": True}),
    "waveft": PeftType("WAVEFT", {"n_coefficients": "n_frequency"}, on_meta=False),
    "c3a": PeftType("C3A", {"block_size": "block_size"}, fixed={"init_weights": True}),
    "road": PeftType("ROAD", {"block_size": "group_size"}),
    "adamss": PeftType("ADAMSS", _RANK, on_meta=False),
    "osf": PeftType("OSF"),
    "deft": PeftType("DEFT", _RANK, "alpha", "deft_dropout"),
    "beft": PeftType("BEFT"),
    "supertuning": PeftType("SUPERTUNING"),
}

_UNMERGED = tuple(f"peft.tuners.{row.kind.lower()}." for row in PEFT_TYPES.values() if not row.merges)


def inject(network: nn.Module, name: str, targets: Targets, options: Mapping[str, Any]) -> None:
    """Put fresh adapters of a type into the layers of `network`, in place; all else is frozen.

    Args:
        name: of `PEFT_TYPES`.
        options: our parameters: rank, block_size, n_coefficients, alpha, dropout; those the type has are used.

    Raises:
        ValueError: the type can't have these values in these layers, as `peft` says.
    """
    # imported late: takes two seconds, with transformers, which the driver of another method's sweep never needs
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    tuner = PEFT_TYPE_TO_TUNER_MAPPING[_kind(name)]
    with warnings.catch_warnings():
        # advice on saving whole PeftModels, on speed and on sparse tensors' checks
        warnings.simplefilter("ignore", UserWarning)
        # the tuner itself is not kept: the layers hold all that is needed
        tuner(network, peft_config(name, targets, options), ADAPTER)


def peft_config(name: str, targets: Targets, options: Mapping[str, Any]) -> Any:
    """Return the `peft` configuration of a type; arguments as `inject`."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    row = PEFT_TYPES[name]
    keys: dict[str, str] = {"alpha": row.alpha, "dropout": row.dropout}
    keys.update(row.widths.items())
    values: dict[str, Any] = {"target_modules": list(TARGETS[targets])}
    values |= {key: options[ours] for ours, key in keys.items() if key}
    if name == "adalora":
        values["init_r"] = -(-3 * options["rank"] // 2)
    return PEFT_TYPE_TO_CONFIG_MAPPING[_kind(name)](**{**values, **row.fixed})


def _kind(name: str) -> Any:
    from peft import PeftType as Kind

    return Kind(PEFT_TYPES[name].kind)


def merge(network: nn.Module) -> None:
    """Fold every adapter of `network` into the layer it adapts, in place; the answers stay the same.

    On the meta device adapters are only taken away, which gives the same layers. A type that can't be merged stays.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    is_meta = any(parameter.is_meta for parameter in network.parameters())
    for name, module in list(network.named_modules()):
        if not isinstance(module, BaseTunerLayer) or type(module).__module__.startswith(_UNMERGED):
            continue
        if not is_meta:
            with torch.no_grad():
                module.merge()
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, module.get_base_layer())
