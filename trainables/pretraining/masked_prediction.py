"""HuBERT's criterion (Hsu et al. 2021, arXiv:2106.07447): which cluster does a masked token belong to?

loss = sum over codebooks of (masked_weight * CE(masked) + unmasked_weight * CE(unmasked)), means over tokens
(eq. 1 and 2 there; HuBERT-ECG: weights 1 and 0). The logit of a cluster is the cosine between the projected token and
the cluster's embedding, divided by 0.1.

B: records, L: leads, T: timesteps, E: tokens, H: hidden size, J: codebooks, V: clusters, M: chosen tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.codebook import PADDING
from data.dataset import Batch
from trainables.backbones.architecture import Architecture, build_network
from trainables.pretraining.config import TokenPretrainConfig
from trainables.pretraining.masks import RecordStreams, draw_masks
from trainables.pretraining.trainer import Part, Prepared, Role
from trainables.token_encoder import conv_features, encode, lay_out, mean_of_tokens, set_dropout, valid_tokens

TEMPERATURE = 0.1
PART_NAMES = ("masked_loss", "unmasked_loss", "masked_accuracy", "unmasked_accuracy")


class ClusterHead(nn.Module):
    """hidden_MH -> logits_MV over one codebook's clusters."""

    def __init__(self, hidden_size: int, head_size: int, num_clusters: int) -> None:
        super().__init__()
        self.project = nn.Linear(hidden_size, head_size)
        self.embedding_VD = nn.Parameter(torch.randn(num_clusters, head_size))

    def forward(self, hidden_MH: Tensor) -> Tensor:
        token_MD = nn.functional.normalize(self.project(hidden_MH), dim=1)
        return token_MD @ nn.functional.normalize(self.embedding_VD, dim=1).T / TEMPERATURE


class MaskedPrediction(nn.Module):
    """An encoder with a head a codebook; a `trainables.pretraining.trainer.PretrainModel`.

    Args:
        num_clusters: of each codebook.
    """

    def __init__(
        self,
        architecture: Architecture,
        n_tokens: int,
        head_size: int,
        num_clusters: Sequence[int],
        config: TokenPretrainConfig,
        weights: tuple[float, float],
    ) -> None:
        super().__init__()
        self.architecture, self.n_tokens, self.layerdrop = architecture, n_tokens, config.layerdrop
        self.hubert: Any = build_network(architecture, config.dropout)
        set_dropout(self.hubert, config.dropout)
        self.final_dropout = nn.Dropout(config.dropout)
        self.projector = nn.ModuleList(
            ClusterHead(architecture.hidden_size, head_size, number) for number in num_clusters
        )
        self.criterion = [Part(name, weight) for name, weight in zip(PART_NAMES, (*weights, 0.0, 0.0), strict=True)]

    @property
    def network(self) -> Any:
        return self.hubert

    def begin_step(self, step: int) -> None:
        pass

    def set_dropout(self, dropout: float) -> None:
        set_dropout(self.hubert, dropout)

    def forward(self, ecg_BLT: Tensor) -> Tensor:
        """Return the mean over the tokens of unmasked records, embeddings_BH."""
        valid_BE = valid_tokens(ecg_BLT, self.architecture, self.n_tokens)
        feature_BEC = conv_features(self.hubert, lay_out(ecg_BLT, self.architecture))
        return mean_of_tokens(encode(self.hubert, feature_BEC, valid_BE=valid_BE), valid_BE)

    def parts(self, *inputs: Tensor | None) -> Tensor:
        """Return the sums of `PART_NAMES` over tokens (and codebooks); those of unmasked tokens only where asked for.

        Args:
            inputs: ecg_BLT, mask_BE, labels_BEJ, valid_BE (None: no padding), unmasked (None: only masked tokens).
        """
        ecg_BLT, mask_BE, labels_BEJ, valid_BE, unmasked = inputs
        assert ecg_BLT is not None and mask_BE is not None and labels_BEJ is not None
        feature_BEC = conv_features(self.hubert, lay_out(ecg_BLT, self.architecture))
        hidden_BEH = self.final_dropout(encode(self.hubert, feature_BEC, mask_BE, valid_BE, self.layerdrop))
        masked = self._sums(hidden_BEH[mask_BE], labels_BEJ[mask_BE])
        if unmasked is None:
            return torch.stack([masked[0], masked[0].new_zeros(()), masked[1], masked[1].new_zeros(())])
        others_BE = ~mask_BE if valid_BE is None else valid_BE & ~mask_BE
        rest = self._sums(hidden_BEH[others_BE], labels_BEJ[others_BE])
        return torch.stack([masked[0], rest[0], masked[1], rest[1]])

    def _sums(self, hidden_MH: Tensor, labels_MJ: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the cross-entropies, and of the right answers."""
        losses, hits = [], []
        for codebook, head in enumerate(self.projector):
            logits_MV, label_M = head(hidden_MH).float(), labels_MJ[:, codebook]
            losses.append(nn.functional.cross_entropy(logits_MV, label_M, reduction="sum"))
            hits.append((logits_MV.argmax(dim=1) == label_M).sum())
        return torch.stack(losses).sum(), torch.stack(hits).sum().float()


class LabelledTokens:
    """Prepares batches for `MaskedPrediction`: masks, and the labels of the records.

    Args:
        labels: role -> labels_NEJ in the order of the split, -1 for padding.
    """

    def __init__(
        self, config: TokenPretrainConfig, labels: Mapping[Role, NDArray[np.int16]], unmasked_weight: float
    ) -> None:
        self._config, self._labels, self._unmasked_weight = config, labels, unmasked_weight

    def __call__(self, batch: Batch, role: Role, streams: RecordStreams) -> Prepared:
        labels_BEJ = self._labels[role][batch.index_B].astype(np.int64)
        valid_BE = labels_BEJ[:, :, 0] != PADDING
        mask_BE = draw_masks(valid_BE, batch.index_B, self._config, streams)
        needs_unmasked = role == "val" or self._unmasked_weight > 0
        n_masked = int(mask_BE.sum())
        n_unmasked = int(valid_BE.sum()) - n_masked if needs_unmasked else 0
        n_codebooks = labels_BEJ.shape[2]
        inputs = (
            torch.from_numpy(batch.ecg_BLT),
            torch.from_numpy(mask_BE),
            torch.from_numpy(labels_BEJ),
            None if valid_BE.all() else torch.from_numpy(valid_BE),
            torch.ones(()) if needs_unmasked else None,
        )
        counts = (n_masked, n_unmasked, n_masked * n_codebooks, n_unmasked * n_codebooks)
        return Prepared(inputs, torch.tensor(counts, dtype=torch.float32), int(valid_BE.sum()))


def chance(labels_NEJ: NDArray[np.int16]) -> float:
    """Return the accuracy of always naming each codebook's most frequent cluster."""
    shares = []
    for codebook in range(labels_NEJ.shape[2]):
        labels = labels_NEJ[:, :, codebook]
        counts = np.bincount(labels[labels != PADDING])
        shares.append(counts.max() / counts.sum())
    return float(np.mean(shares))
