"""What AdaGrad-Fusion minimises: one loss for every pass of a step, with back-propagation and without.

B: records, L: leads, T: timesteps, K: outputs, J: columns of targets. With w the records' weights (of
`Criterion.weight_B`: K for labels of yes and no) the loss of a batch is sum(w * l) / sum(w) of

    l = hard_weight * criterion(logits, labels)
      + soft_weight * temperature^2 * BCE(logits / temperature, sigmoid(teacher's logits / temperature))
      + aux_weight * BCE(auxiliary, abnormal)

where the teacher's term is a cross-entropy of softmaxes for multiclass labels (Hinton et al. 2015, arXiv:1503.02531).
The original's has temperature and both weights 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from data.dataset import Dataset
from trainables.abnormality import Abnormality, resolve_threshold
from trainables.batch_norm import in_chunks
from trainables.distillation import load_teacher
from trainables.fusion_network import Answers, NetworkConfig
from trainables.losses import Criterion

Array = NDArray[np.float32]
TEACHER_CHUNK = 16  # records that a teacher sees at once: a whole batch would be the peak of a student's memory

_NEED = {  # parameter -> what must be set for it to work
    "gate": "aux_weight above 0",
    "positive_threshold": "gate: true",
    "normal_labels": "aux_weight above 0",
    "temperature": "teacher",
    "soft_weight": "teacher",
    "hard_weight": "teacher",
}


class ObjectiveConfig(NetworkConfig):
    """What is minimised."""

    gate: bool = Field(
        False,
        description="The labels' loss of a record that the auxiliary head calls normal teaches nothing, as in the "
        "original; answers stay as they are.",
    )
    positive_threshold: Annotated[float, Field(ge=0, le=1)] | Literal["prevalence"] = Field(
        "prevalence",
        description="Probability above which the gate takes a record for abnormal; prevalence: the share of abnormal "
        "training records.",
    )
    normal_labels: Annotated[tuple[str, ...], Field(strict=False)] | None = Field(
        None,
        description="Labels of a normal record, for the auxiliary head; every other one makes it abnormal. null: those "
        "named NORM, NSR, SR, normal, normal_ecg or sinus.",
    )
    teacher: str | None = Field(
        None, description="best/ folder of an adagrad_fusion sweep (or the weights in it) to distil from."
    )
    temperature: float = Field(1.0, gt=0, description="Softens teacher and student in the distillation term.")
    soft_weight: float = Field(1.0, ge=0, description="Weight of the distillation term.")
    hard_weight: float = Field(1.0, ge=0, description="Weight of the labels' term beside a teacher.")

    @model_validator(mode="after")
    def _objective_consistent(self) -> ObjectiveConfig:
        """Refuse a parameter that was set but that the others leave without effect."""
        there = {
            "aux_weight above 0": self.aux_weight > 0,
            "gate: true": self.gate,
            "teacher": self.teacher is not None,
        }
        for name, need in _NEED.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and not there[need]:
                raise ValueError(f"{name} works only with {need}; got {name}={value!r}; leave it out")
        if self.hard_weight == self.soft_weight == 0:
            raise ValueError("hard_weight or soft_weight must be above 0, or the labels are not learnt; got 0 for both")
        return self


@dataclass(frozen=True)
class Targets:
    """What B records should be answered.

    Attributes:
        abnormal_B: 0 or 1, or the share of a mixed record; None without an auxiliary head.
        teacher_BK: the teacher's logits; None without one.
    """

    labels_BK: Tensor
    abnormal_B: Tensor | None = None
    teacher_BK: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels_BK)

    def __getitem__(self, rows: slice) -> Targets:
        abnormal_B = None if self.abnormal_B is None else self.abnormal_B[rows]
        teacher_BK = None if self.teacher_BK is None else self.teacher_BK[rows]
        return Targets(self.labels_BK[rows], abnormal_B, teacher_BK)


class Objective:
    """The loss of one trial. Sums over records, so that pieces and ranks add up to the same.

    Args:
        gate_threshold: None: no gate.
        teacher: in evaluation mode, without gradient; or None.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        criterion: Criterion,
        abnormality: Abnormality | None,
        gate_threshold: float | None,
        teacher: nn.Module | None,
    ) -> None:
        self.config, self.criterion = config, criterion
        self._abnormality, self._gate_threshold, self._teacher = abnormality, gate_threshold, teacher

    def with_columns(self, targets_BK: Array) -> Array:
        """Return targets_BJ: behind the labels whether a record is abnormal, for it to be mixed as they are."""
        if self._abnormality is None:
            return targets_BK
        return np.concatenate([targets_BK, self._abnormality.of_targets(targets_BK)[:, None]], axis=1)

    @torch.no_grad()
    def targets(self, ecg_BLT: Tensor, targets_BJ: Tensor) -> Targets:
        """Return all that a batch is compared with; the teacher sees every lead of the records, mixed as they are."""
        teacher_BK = None if self._teacher is None else in_chunks(self._teacher, ecg_BLT, TEACHER_CHUNK).float()
        if self._abnormality is None:
            return Targets(targets_BJ, None, teacher_BK)
        return Targets(targets_BJ[:, :-1], targets_BJ[:, -1], teacher_BK)

    def weight(self, targets: Targets) -> Tensor:
        """Return what `total` is divided by for the mean, a scalar."""
        return self.criterion.weight(targets.labels_BK)

    def total(self, answers: Answers, targets: Targets) -> Tensor:
        """Return the sum of the weighted losses, a scalar; 0 for no records."""
        config = self.config
        logits_BK = self._gated(answers).float()
        total = config.hard_weight * self.criterion.total(logits_BK, targets.labels_BK)
        if targets.teacher_BK is None and targets.abnormal_B is None:
            return total
        weight_B = self.criterion.weight_B(targets.labels_BK)
        if targets.teacher_BK is not None:
            soft_B = self._distillation(logits_BK, targets.teacher_BK)
            total = total + config.soft_weight * (weight_B * soft_B).sum()
        if targets.abnormal_B is not None:
            assert answers.auxiliary_B is not None
            logits_B = answers.auxiliary_B.float()
            aux_B = F.binary_cross_entropy_with_logits(logits_B, targets.abnormal_B, reduction="none")
            total = total + config.aux_weight * (weight_B * aux_B).sum()
        return total

    def _gated(self, answers: Answers) -> Tensor:
        if self._gate_threshold is None:
            return answers.logits_BK
        assert answers.auxiliary_B is not None
        is_open_B1 = (answers.auxiliary_B.detach().sigmoid() > self._gate_threshold)[:, None]
        return torch.where(is_open_B1, answers.logits_BK, answers.logits_BK.detach())

    def _distillation(self, logits_BK: Tensor, teacher_BK: Tensor) -> Tensor:
        """Return each record's distillation loss; times temperature^2, so that its gradient keeps its size."""
        temperature = self.config.temperature
        student_BK, teacher_BK = logits_BK / temperature, teacher_BK / temperature
        if self.criterion.multiclass:
            loss_B = -(F.log_softmax(student_BK, dim=1) * teacher_BK.softmax(dim=1)).sum(dim=1)
        else:
            losses_BK = F.binary_cross_entropy_with_logits(student_BK, teacher_BK.sigmoid(), reduction="none")
            loss_B = losses_BK.mean(dim=1)
        return temperature**2 * loss_B


def build_objective(
    config: ObjectiveConfig, criterion: Criterion, dataset: Dataset, device: torch.device | str
) -> Objective:
    """Build the loss of a trial; the teacher is read, and the threshold found, here.

    Raises:
        ValueError: the training records are all normal or all abnormal, or the teacher does not fit the data.
    """
    label_set, labels_NK = dataset.label_set, dataset.train.labels_NK
    abnormality, threshold, teacher = None, None, None
    if config.aux_weight > 0:
        abnormality = Abnormality.of(label_set, config.normal_labels)
        abnormality.check(labels_NK)
        if config.gate:
            threshold = resolve_threshold(config.positive_threshold, abnormality.of_labels(labels_NK))
    if config.teacher is not None:
        teacher = load_teacher(config.teacher, config, dataset.signal, label_set).to(device)
    return Objective(config, criterion, abnormality, threshold, teacher)
