"""Stacking on answers that the heads did not learn by heart (Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1).

The training patients are dealt to M parts, and every expert has M heads, one a member: the heads of member m learn from
all parts but m, and the layer over them from what they say of part m. So it sees what the heads say of records that
are new to them, as they will be later, and all members learn in one training; the ensemble answers with their mean.

B: records, M: members, as many as parts, E: experts, K: outputs, J: outputs and parts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import LabelSet, Split
from data.folds import strata, stratified_folds
from trainables.enecg_network import Answers
from trainables.losses import Criterion

N_MEMBERS: Final = 5
WHOLLY: Final = 1 - 1e-6  # in a part; a record that mixup makes of two is in neither, or in the one of both


def deal_parts(train: Split, label_set: LabelSet, seed: int) -> NDArray[np.float32]:
    """Return part_NM, 1 for the part that a training record is in: patients stay whole, labels are spread evenly.

    Raises:
        ValueError: there are fewer patients than members.
    """
    folds_N = stratified_folds(strata(train.labels_NK, label_set), train.patient_ids, seed % 2**32, N_MEMBERS)
    return np.asarray(folds_N[:, None] == np.arange(1, N_MEMBERS + 1), np.float32)


class StackingCriterion(nn.Module):
    """The sum over members of criterion(whole) on the part that their heads do not learn from, and of aux_weight x the
    mean of criterion(each expert) on the others; a record weighs as much in the latter as it would in one member."""

    def __init__(self, criterion: Criterion, n_experts: int, n_outputs: int, aux_weight: float) -> None:
        super().__init__()
        self.criterion = criterion
        self._n_experts, self._n_outputs, self._aux_weight = n_experts, n_outputs, aux_weight

    def total(self, logits_BX: Tensor, targets_BJ: Tensor) -> Tensor:
        """Return the sum of the weighted losses of `trainables.enecg_loss.PackedAnswers`, a scalar."""
        targets_BK, part_BM = targets_BJ[:, : self._n_outputs], targets_BJ[:, self._n_outputs :]
        members = zip(logits_BX.chunk(N_MEMBERS, dim=1), part_BM.unbind(dim=1), strict=True)
        return torch.stack([self._of_member(packed_BC, targets_BK, part_B) for packed_BC, part_B in members]).sum()

    def weight(self, targets_BJ: Tensor) -> Tensor:
        """Return what `total` is divided by for the mean, a scalar."""
        return self.criterion.weight(targets_BJ[:, : self._n_outputs])

    def _of_member(self, packed_BC: Tensor, targets_BK: Tensor, part_B: Tensor) -> Tensor:
        answers = Answers.unpacked(packed_BC, self._n_experts, self._n_outputs)
        is_new_B, is_learnt_B = part_B >= WHOLLY, part_B == 0
        learnt_BK = targets_BK[is_learnt_B]
        own = [self.criterion.total(own_BK[is_learnt_B], learnt_BK) for own_BK in answers.expert_BEK.unbind(dim=1)]
        heads = self._aux_weight * torch.stack(own).mean() / (N_MEMBERS - 1)
        return self.criterion.total(answers.mixed_BK[is_new_B], targets_BK[is_new_B]) + heads
