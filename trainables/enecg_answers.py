"""What an ensemble and each of its experts say of the records of a split.

N: records, B: records of a batch, E: experts, K: outputs, C: numbers of a record's packed answers, W: windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import Batch, Dataset, Split, Task
from trainables.cross_validation import MeanModel, mean_logits
from trainables.enecg import EnecgConfig
from trainables.enecg_mixing import Weights, mix
from trainables.enecg_network import Answers, EnsembleNetwork
from trainables.evaluation import pool_windows
from trainables.expert_features import packed
from trainables.windows import tile

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class SplitAnswers:
    """The answers of one network, in the split's order; a record of several windows has the mean over them.

    Attributes:
        mixed_NK, expert_NEK: logits, or values.
        weight_NE: of the experts.
    """

    mixed_NK: Tensor
    expert_NEK: Tensor
    weight_NE: Tensor

    def of(self, kept: Sequence[int], config: EnecgConfig, task: Task) -> Tensor:
        """Return logits_NK as if only the experts `kept` were there, with the same weights, scaled to sum to 1."""
        weight_NE = self.weight_NE[:, list(kept)]
        weight_NE = weight_NE.clamp(min=1e-12)  # of those that a gate of few has left out alone
        weight_NE = weight_NE / weight_NE.sum(dim=1, keepdim=True)
        return mix(self.expert_NEK[:, list(kept)], Weights(weight_NE.log(), weight_NE), config.average, task)


def networks_of(model: nn.Module) -> list[EnsembleNetwork]:
    """Return the ensemble, or those of all folds."""
    networks = model.models if isinstance(model, MeanModel) else [model]
    return [network for network in networks if isinstance(network, EnsembleNetwork)]


def readable(model: nn.Module, config: EnecgConfig, split: Split, dataset: Dataset, device: torch.device) -> Split:
    """Let `model` read the experts' features from the cache, where trials do; returns the split that it then takes.

    Args:
        split: of the same store as `dataset`.
    """
    networks = networks_of(model)
    if dataset.source is None or not config.keeps_features:
        return split
    for network in networks:
        network.reads_features = True
    kinds = [each.kind for each in config.experts]
    return packed(networks[0], kinds, config.precision, split, dataset, device)


def answer_split(
    model: nn.Module, split: Split, config: EnecgConfig, task: Task, device: torch.device
) -> list[SplitAnswers]:
    """Return the answers of the ensemble, or of that of each fold."""
    return [_answer(network.to(device).eval(), split, config, task, device) for network in networks_of(model)]


def subset_logits(answers: Iterable[SplitAnswers], kept: Sequence[int], config: EnecgConfig, task: Task) -> Logits:
    """Return logits_NK of the experts `kept`, over all folds."""
    logits_FNK = torch.stack([each.of(kept, config, task) for each in answers])
    return np.asarray(mean_logits(logits_FNK, task) if len(logits_FNK) > 1 else logits_FNK[0])


def mean_weights(answers: Sequence[SplitAnswers]) -> Logits:
    """Return weight_NE, the mean over the folds."""
    return np.asarray(torch.stack([each.weight_NE for each in answers]).mean(dim=0))


@torch.inference_mode()
def _answer(
    network: EnsembleNetwork, split: Split, config: EnecgConfig, task: Task, device: torch.device
) -> SplitAnswers:
    batches = list(_pooled(network, split, config, task, device))
    mixed, experts, weights = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return SplitAnswers(mixed, experts, weights)


def _pooled(
    network: EnsembleNetwork, split: Split, config: EnecgConfig, task: Task, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    n_experts, n_outputs, pooling = len(network.experts), network.mixture.n_outputs, config.window_pooling
    for batch in split.batches(256):
        packed_WBC, n_windows_B = _windows(network, batch, config, device)
        answers = [Answers.unpacked(packed_BC, n_experts, n_outputs) for packed_BC in packed_WBC]
        mixed_WBK = torch.stack([each.mixed_BK for each in answers])
        expert_WBEK = torch.stack([each.expert_BEK for each in answers])
        weight_WBE = torch.stack([each.weights.weight_BE for each in answers])
        yield (
            pool_windows(mixed_WBK, n_windows_B, task, pooling),
            torch.stack([pool_windows(own, n_windows_B, task, pooling) for own in expert_WBEK.unbind(dim=2)], dim=1),
            pool_windows(weight_WBE, n_windows_B, "regression", pooling),
        )


def _windows(
    network: EnsembleNetwork, batch: Batch, config: EnecgConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return packed_WBC, and how many windows each record has; beyond them it is 0."""
    n_windows_B = torch.zeros(len(batch.index_B), dtype=torch.int64)
    windows = []
    for row_R, ecg_RLT in tile(batch, config):
        packed_RC = network.answers(torch.from_numpy(ecg_RLT).to(device)).packed().float().cpu()
        packed_BC = packed_RC.new_zeros((len(n_windows_B), packed_RC.shape[1]))
        packed_BC[row_R] = packed_RC
        n_windows_B[row_R] += 1
        windows.append(packed_BC)
    return torch.stack(windows), n_windows_B
