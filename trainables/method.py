"""What a training method is to the platform: a typed configuration, a model and a training function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from data.dataset import Dataset, LabelSet, Signal
from trainables.trial import Trial


@dataclass(frozen=True)
class Method:
    """One row of `trainables.METHODS`; every row passes the contract test `tests/trainables/test_method_contract.py`.

    Attributes:
        config: a frozen pydantic model; its fields are the parameters that a search space may name.
        build_model: (config, signal, label_set) -> module that maps ecg_BLT (float32, preprocessed) to logits_BK.
        train: (config, dataset, trial) trains until `config.epochs` or `TrialStopped`, reporting every epoch.
    """

    name: str
    config: type[Any]
    build_model: Callable[[Any, Signal, LabelSet], nn.Module]
    train: Callable[[Any, Dataset, Trial], None]
