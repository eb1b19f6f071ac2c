"""z-scores inside a model, where a search chooses between them: of each window, or with statistics of training records.

B: records, L: leads, T: timesteps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data.dataset import Split
from data.leads import MIN_SD_MV
from data.scaling import record_sums, statistics
from trainables.standardise import before_padding


class GlobalStandardise(nn.Module):
    """Subtract one mean and divide by one deviation, those of all training records and leads; padding stays zero.

    `fit` sets both; until then nothing is changed.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, train: Split, n_leads: int, batch_size: int = 256) -> None:
        """Take the statistics of the training records; the same in every worker."""
        sums = [row for batch in train.batches(batch_size) for row in record_sums(batch.ecg_BLT)]
        found = statistics(sums, int(train.length_N.sum()) * n_leads)
        self.mean.fill_(found.mean)
        self.scale.fill_(1 / found.sd if found.sd > MIN_SD_MV else 0.0)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        return (ecg_BLT - self.mean) * self.scale * before_padding(ecg_BLT)
