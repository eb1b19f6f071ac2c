"""What a training method is to the platform: a typed configuration, a model and a training function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.trial import Trial

LABELLED: frozenset[Task] = frozenset({"binary", "multilabel", "multiclass", "regression"})


def as_it_is(model: nn.Module) -> nn.Module:
    """Return `model`: what is trained is what is used."""
    return model


@dataclass(frozen=True)
class Method:
    """One row of `trainables.methods.METHODS`; all pass the contract test, `tests/trainables/test_method_contract.py`.

    Attributes:
        config: a frozen pydantic model; its fields are the parameters that a search space may name.
        build_model: (config, signal, label_set) -> module that maps ecg_BLT (float32, preprocessed) to logits_BK.
        train: (config, dataset, trial) trains until `config.epochs` or `TrialStopped`, reporting every epoch.
        reports: task -> names of the numbers in every report, so that a search can be checked before it starts.
        finish: a built or trained model -> the one that evaluation, export and ONNX use, with the same answers; may
            change its argument, and take one on the meta device. Adapters are merged into their layers here.
        tasks: what it learns from; `unlabelled` for pretraining, whose model maps ecg_BLT to embeddings_BH instead, and
            whose sweeps look at no test fold.
    """

    name: str
    config: type[Any]
    build_model: Callable[[Any, Signal, LabelSet], nn.Module]
    train: Callable[[Any, Dataset, Trial], None]
    reports: Callable[[Task], frozenset[str]]
    finish: Callable[[nn.Module], nn.Module] = as_it_is
    tasks: frozenset[Task] = LABELLED

    def check_task(self, task: Task) -> None:
        """Refuse labels that the method does not learn from.

        Raises:
            ValueError: it does not; with the way out.
        """
        if task in self.tasks:
            return
        if task == "unlabelled":
            raise ValueError(f"{self.name} learns from labels: name a label set in data.labels, instead of none")
        if self.tasks == {"unlabelled"}:
            raise ValueError(
                f"{self.name} looks at no label: set data.labels: none, which also keeps unlabelled records"
            )
        raise ValueError(
            f"{self.name} learns from {', '.join(sorted(self.tasks))} labels, but those of data.labels are {task}"
        )

    def parse_config(self, params: Mapping[str, Any]) -> Any:
        """Build the typed configuration from dotted keys.

        Raises:
            ValidationError: the method does not allow these values, or not together.
        """
        return self.config.model_validate(nest(params))


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested mappings: {"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree
