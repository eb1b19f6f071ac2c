"""The frozen beginning of a backbone: what it makes of every record is kept, and stands in the records' place.

B: records, L: leads, T: timesteps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from data.dataset import Dataset
from trainables.backbones.backbone import FIRST_LAYER
from trainables.backbones.classifier import BackboneClassifier
from trainables.backbones.config import BackboneConfig
from trainables.features import FeatureCache, FrozenFunction, KeptSplit, digest_of


def with_cached_prefix(
    model: BackboneClassifier, config: BackboneConfig, dataset: Dataset, device: torch.device
) -> Dataset:
    """Put what the frozen beginning of `model` makes of the records in their place, and let `model` start behind it.

    Losses, metrics and checkpoints stay the same, but for rounding. `dataset` is returned as it is, and `model` left
    alone, where `config.feature_cache` is off, nothing is frozen, records differ between epochs, or come from no store.

    Args:
        model: its weights are loaded, and what is trained wants a gradient.

    Raises:
        ValueError: as `FeatureCache.get`.
    """
    source, stop = dataset.source, model.backbone.split_at()
    is_empty = 0 in (dataset.train.n_records, dataset.val.n_records)  # the trainer will refuse it
    if config.feature_cache == "off" or source is None or stop == 0 or config.varies or is_empty:
        return dataset
    cache, function = FeatureCache.beside(source), frozen_prefix(model, config, stop, device)
    train, val = (KeptSplit(split, cache.get(function, split, source)) for split in (dataset.train, dataset.val))
    model.start = stop
    return replace(dataset, train=train, val=val)


def frozen_prefix(model: BackboneClassifier, config: BackboneConfig, stop: int, device: torch.device) -> FrozenFunction:
    """Return the stages of `model` before `stop` as a function; it is moved to `device`, and evaluates."""
    backbone = model.to(device).eval().backbone
    modules = [model.normalise, *(module for stage in range(stop) for module in backbone.modules_of(stage))]
    pooling = (
        stop > FIRST_LAYER and config.pooling == "layer_sum",  # states of all layers, or of the last one
        stop > backbone.n_stages - 2 and config.pooling,
        stop == backbone.n_stages and config.lead_pooling,
    )
    layout = (backbone.architecture, str(backbone.placement), str(model.normalise))
    digest = digest_of(modules, layout, stop, pooling, config.precision, device.type)

    def compute(ecg_BLT: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            return model.run(ecg_BLT, 0, stop)

    names = (*backbone.stage_names, "all")
    return FrozenFunction(f"{config.backbone}_{config.size}-before_{names[stop]}", digest, compute, device)
