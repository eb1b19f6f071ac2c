"""What a training method is to the platform: a typed configuration, a model and a training function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.dataset import Dataset, LabelSet, Signal, Task
from trainables.trial import Trial

if TYPE_CHECKING:
    from torch import nn

LABELLED: frozenset[Task] = frozenset({"binary", "multilabel", "multiclass", "regression"})


def as_it_is(model: nn.Module) -> nn.Module:
    """Return `model`: what is trained is what is used."""
    return model


def in_one_piece(model: nn.Module, signal: Signal) -> Sequence[tuple[nn.Module, Signal]]:
    """Return `model` and its input: its ONNX file's size is known from an export of the whole."""
    return [(model, signal)]


def nothing_to_check(configs: Sequence[Any], signal: Signal, label_set: LabelSet) -> None:
    """Accept all configurations that were parsed."""


@dataclass(frozen=True)
class Method:
    """One row of `trainables.methods.METHODS`; all pass the contract test, `tests/trainables/test_method_contract.py`.

    Attributes:
        config: a frozen pydantic model; its fields are the parameters that a search space may name.
        build_model: (config, signal, label_set) -> module that maps ecg_BLT (float32, preprocessed) to logits_BK.
        train: (config, dataset, trial) trains until `config.epochs` or `TrialStopped`, reporting every epoch.
        reports: task -> names of the numbers in every report, so that a search can be checked before it starts.
        check: (configs, signal, label_set) raises ValueError where one of some configurations can't be trained, as far
            as can be known before a sweep starts; cheap but for what all trials need, e.g. weights from a hub.
        finish: a built or trained model -> the one that evaluation, export and ONNX use, with the same answers; may
            change its argument, and take one on the meta device. Adapters are merged into their layers here.
        onnx_parts: (finished model, shape of its input) -> parts with theirs whose ONNX files are together as large as
            the model's; a part that many configurations have is then exported once for all of them.
        tasks: what it learns from; `unlabelled` for pretraining, whose model maps ecg_BLT to embeddings_BH instead, and
            whose sweeps look at no test fold.
        needs_torch: False where `train` has its state in numpy's arrays. Its module imports torch inside `build_model`
            alone, and its trials run in processes that have none.
    """

    name: str
    config: type[Any]
    build_model: Callable[[Any, Signal, LabelSet], nn.Module]
    train: Callable[[Any, Dataset, Trial], None]
    reports: Callable[[Task], frozenset[str]]
    finish: Callable[[nn.Module], nn.Module] = as_it_is
    check: Callable[[Sequence[Any], Signal, LabelSet], None] = nothing_to_check
    onnx_parts: Callable[[nn.Module, Signal], Sequence[tuple[nn.Module, Signal]]] = in_one_piece
    tasks: frozenset[Task] = LABELLED
    needs_torch: bool = True

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
