"""Evaluation of a trained model on a split, window by window where it was trained on crops.

B, N: records, K: outputs, L: leads, T: timesteps, W: windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import Batch, LabelSet, Split, Task
from trainables.config import Pooling, TrainConfig
from trainables.metrics import Scores, probabilities, score
from trainables.thresholds import Floats, fit_thresholds
from trainables.windows import tile


@dataclass(frozen=True)
class Evaluation:
    """A model's answers on one split, and how good they are. Rows are in the split's order."""

    scores: Scores
    thresholds_K: Floats
    predicted_NK: Floats  # probabilities, or values in the targets' units
    labels_NK: NDArray[np.float32]


def evaluate(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    label_set: LabelSet,
    thresholds_K: Floats | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
) -> Evaluation:
    """Score `model` on `split`. Without `thresholds_K` they are fitted on this split: pass validation first.

    Raises:
        FloatingPointError: the model's answers are not finite.
    """
    logits_NK = predict(model, split, config, label_set, device, batch_size)
    if not np.isfinite(logits_NK).all():
        raise FloatingPointError("the model's answers are not finite; its training has diverged")
    return assess(logits_NK, split.labels_NK, config, label_set, thresholds_K)


def assess(
    logits_NK: NDArray[np.float32],
    labels_NK: NDArray[np.float32],
    config: TrainConfig,
    label_set: LabelSet,
    thresholds_K: Floats | None = None,
) -> Evaluation:
    """Score the finite `logits_NK` of a split; without `thresholds_K` they are fitted on it."""
    predicted_NK = probabilities(logits_NK, label_set.task)
    if thresholds_K is None:
        thresholds_K = fit_thresholds(predicted_NK, labels_NK, config)
    scores = score(predicted_NK, labels_NK, label_set, thresholds_K, config.threshold_beta)
    return Evaluation(scores, thresholds_K, predicted_NK, labels_NK)


def predict(
    model: nn.Module,
    split: Split,
    config: TrainConfig,
    label_set: LabelSet,
    device: torch.device | str = "cpu",
    batch_size: int = 256,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> NDArray[np.float32]:
    """Return logits_NK in the split's order; rows that belong to other ranks are 0, so that ranks add up.

    A record of several windows gets the logit (for multiclass: the log-probability) of the max or the mean of
    their PROBABILITIES; regression the mean of their values. With windows, what pads a record has no effect; a model
    of whole records sees it.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    logits_NK = np.zeros((split.n_records, label_set.n_outputs), dtype=np.float32)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        for batch in split.batches(batch_size, rank=rank, world_size=world_size):
            if len(batch.index_B) == 0:
                continue
            windows = _predict_windows(model, batch, config, device)
            logits_NK[batch.index_B] = pool_windows(*windows, label_set.task, config.window_pooling).numpy()
    return logits_NK


def _predict_windows(
    model: nn.Module, batch: Batch, config: TrainConfig, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return logits_WBK on the CPU, and how many windows each record has; beyond them its logits are 0."""
    n_windows_B = torch.zeros(len(batch.index_B), dtype=torch.int64)
    windows = []
    for row_R, ecg_RLT in tile(batch, config):
        logits_RK = model(torch.from_numpy(ecg_RLT).to(device, non_blocking=True)).float().cpu()
        logits_BK = logits_RK.new_zeros((len(n_windows_B), logits_RK.shape[1]))
        logits_BK[row_R] = logits_RK
        n_windows_B[row_R] += 1
        windows.append(logits_BK)
    return torch.stack(windows), n_windows_B


def pool_windows(logits_WBK: Tensor, n_windows_B: Tensor, task: Task, pooling: Pooling) -> Tensor:
    """Pool the logits of each record's first `n_windows_B` windows into those of the record, logits_BK."""
    if len(logits_WBK) == 1:
        return logits_WBK[0]
    absent_WB1 = (torch.arange(len(logits_WBK))[:, None] >= n_windows_B)[:, :, None]
    logits_WBK = logits_WBK.double()
    if task == "regression":
        return (logits_WBK.masked_fill(absent_WB1, 0).sum(dim=0) / n_windows_B[:, None]).float()
    if task == "multiclass":
        pooled_BK = _pool_logs(torch.log_softmax(logits_WBK, dim=2), absent_WB1, pooling)
        return torch.log_softmax(pooled_BK, dim=1).float()  # the maxima of several classes sum to more than 1
    if pooling == "max":
        return _pool_logs(logits_WBK, absent_WB1, pooling).float()  # the sigmoid keeps order
    # logit(mean p) = log(mean p) - log(mean (1 - p)), without ever rounding p to 1
    positive_BK, negative_BK = (
        _pool_logs(nn.functional.logsigmoid(sign * logits_WBK), absent_WB1, pooling) for sign in (1, -1)
    )
    return (positive_BK - negative_BK).float()


def _pool_logs(log_WBK: Tensor, absent_WB1: Tensor, pooling: Pooling) -> Tensor:
    """Return the max over the windows; or the log of the sum: of the mean, but for a constant that cancels out."""
    log_WBK = log_WBK.masked_fill(absent_WB1, float("-inf"))
    return log_WBK.amax(dim=0) if pooling == "max" else torch.logsumexp(log_WBK, dim=0)
