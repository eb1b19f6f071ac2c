"""Evaluation of a trained model on a split, window by window where it was trained on crops.

B, N: records, K: outputs, L: leads, T: timesteps, W: windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import LabelSet, Split, Task
from trainables.config import Pooling, TrainConfig
from trainables.metrics import Scores, probabilities, score
from trainables.thresholds import Floats, fit_thresholds
from trainables.windows import window_starts


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
    their PROBABILITIES; regression the mean of their values.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    logits_NK = np.zeros((split.n_records, label_set.n_outputs), dtype=np.float32)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        for batch in split.batches(batch_size, rank=rank, world_size=world_size):
            if len(batch.index_B) == 0:
                continue
            ecg_BLT = torch.from_numpy(batch.ecg_BLT)
            windows = (model(piece).float().cpu() for piece in _windows(ecg_BLT, config, device))
            logits_NK[batch.index_B] = pool_windows(windows, label_set.task, config.window_pooling).numpy()
    return logits_NK


def _windows(ecg_BLT: Tensor, config: TrainConfig, device: torch.device) -> Iterable[Tensor]:
    n_timesteps = ecg_BLT.shape[2]
    for start in window_starts(config, n_timesteps):
        stop = start + (config.crop_timesteps or n_timesteps)
        yield ecg_BLT[:, :, start:stop].to(device, non_blocking=True)


def pool_windows(windows: Iterable[Tensor], task: Task, pooling: Pooling) -> Tensor:
    """Pool the logits_BK of each window into those of the record."""
    logits_WBK = torch.stack(list(windows))
    if len(logits_WBK) == 1:
        return logits_WBK[0]
    if task == "regression":
        return logits_WBK.mean(dim=0)
    logits_WBK = logits_WBK.double()
    if task == "multiclass":
        log_WBK = torch.log_softmax(logits_WBK, dim=2)
        pooled_BK = log_WBK.amax(dim=0) if pooling == "max" else _log_mean(log_WBK)
        return torch.log_softmax(pooled_BK, dim=1).float()  # the maxima of several classes sum to more than 1
    if pooling == "max":
        return logits_WBK.amax(dim=0).float()  # the sigmoid keeps order
    # logit(mean p) = log(mean p) - log(mean (1 - p)), without ever rounding p to 1
    positive_BK = _log_mean(torch.nn.functional.logsigmoid(logits_WBK))
    return (positive_BK - _log_mean(torch.nn.functional.logsigmoid(-logits_WBK))).float()


def _log_mean(log_WBK: Tensor) -> Tensor:
    return torch.logsumexp(log_WBK, dim=0) - float(np.log(len(log_WBK)))
