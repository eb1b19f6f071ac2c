"""Training losses as sums with their weights, so that a mean over a batch that is spread over processes stays exact.

B: records, K: outputs. `targets_BK` are 0/1 (or mixed) for binary and multilabel, one-hot (or mixed) for
multiclass, real values with NaN where missing for regression.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from data.dataset import LabelSet
from trainables.config import Loss, TrainConfig, resolve_loss


def targets_from_labels(labels_NK: NDArray[np.float32], label_set: LabelSet) -> Tensor:
    """Turn stored labels into targets_NK; class indices become one-hot rows."""
    labels = torch.tensor(labels_NK)  # copied: the labels of a shared data set are read-only
    if label_set.task != "multiclass":
        return labels
    return F.one_hot(labels[:, 0].long(), label_set.n_outputs).float()


class Criterion(nn.Module):
    """The loss of one trial: `total` sums over records, `weight` is what to divide that sum by.

    bce: sum over records and outputs, outputs weighing `weights_K` where positive; divided by their number.
    cross_entropy: sum over records of -sum_k w_k t_k log p_k; divided by the sum of w_k t_k, like torch's.
    focal (Lin et al. 2017, arXiv:1708.02002): the same with every term times (1 - p_t)^gamma.
    mse, mae, huber: of (prediction - target) / scale_K, so that outputs in different units weigh alike and
    `huber_delta` is in standard deviations. NaN targets are left out of sum and weight.
    """

    weights_K: Tensor
    scale_K: Tensor

    def __init__(self, loss: Loss, config: TrainConfig, multiclass: bool, weights_K: Tensor, scale_K: Tensor) -> None:
        super().__init__()
        self.loss = loss
        self.multiclass = multiclass
        self.gamma = config.focal_gamma if loss == "focal" else 0.0
        self.smoothing = config.label_smoothing
        self.delta = config.huber_delta
        self.register_buffer("weights_K", weights_K)
        self.register_buffer("scale_K", scale_K)

    def total(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        """Return the sum of the weighted losses, a scalar; 0 for no records."""
        if self.loss in ("mse", "mae", "huber"):
            return self._deviations(logits_BK, targets_BK)
        if self.multiclass:
            return self._softmax(logits_BK, self._smoothed(targets_BK))
        return self._sigmoid(logits_BK, self._smoothed(targets_BK))

    def weight(self, targets_BK: Tensor) -> Tensor:
        """Return what `total` is divided by for the mean, a scalar."""
        return self.weight_B(targets_BK).sum()

    def weight_B(self, targets_BK: Tensor) -> Tensor:
        """Return each record's part of `weight`, so that further terms of a loss can be averaged alike."""
        if self.multiclass:
            return (self._smoothed(targets_BK) * self.weights_K).sum(dim=1)
        return (~targets_BK.isnan()).sum(dim=1).to(torch.float32)

    def mean(self, logits_NK: Tensor, targets_NK: Tensor) -> float:
        """Return the mean loss of whole records; NaN where every target is missing."""
        return float(self.total(logits_NK, targets_NK) / self.weight(targets_NK))

    def _smoothed(self, targets_BK: Tensor) -> Tensor:
        if self.smoothing == 0:
            return targets_BK
        n_classes = targets_BK.shape[1] if self.multiclass else 2
        return targets_BK * (1 - self.smoothing) + self.smoothing / n_classes

    def _sigmoid(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        positive_BK = -F.logsigmoid(logits_BK) * targets_BK * self.weights_K
        negative_BK = -F.logsigmoid(-logits_BK) * (1 - targets_BK)
        if self.gamma:
            probability_BK = torch.sigmoid(logits_BK)
            positive_BK = positive_BK * (1 - probability_BK) ** self.gamma
            negative_BK = negative_BK * probability_BK**self.gamma
        return (positive_BK + negative_BK).sum()

    def _softmax(self, logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
        log_BK = F.log_softmax(logits_BK, dim=1)
        losses_BK = -log_BK * targets_BK * self.weights_K
        if self.gamma:
            losses_BK = losses_BK * (1 - log_BK.exp()) ** self.gamma
        return losses_BK.sum()

    def _deviations(self, predictions_BK: Tensor, targets_BK: Tensor) -> Tensor:
        known_BK = ~targets_BK.isnan()
        errors = ((predictions_BK - targets_BK.nan_to_num()) / self.scale_K)[known_BK]
        if self.loss == "mse":
            return errors.square().sum()
        if self.loss == "mae":
            return errors.abs().sum()
        return F.huber_loss(errors, torch.zeros_like(errors), reduction="sum", delta=self.delta)


def build_criterion(config: TrainConfig, label_set: LabelSet, train_labels_NK: NDArray[np.float32]) -> Criterion:
    """Build the loss of a trial; class weights and scales come from the training folds alone."""
    weights = np.ones(label_set.n_outputs)
    scale = np.ones(label_set.n_outputs)
    if config.class_weights == "balanced":
        weights = balanced_weights(train_labels_NK, label_set)
    if label_set.task == "regression":
        _, scale = location_and_scale(train_labels_NK)
    return Criterion(
        resolve_loss(config, label_set.task),
        config,
        multiclass=label_set.task == "multiclass",
        weights_K=torch.tensor(weights, dtype=torch.float32),
        scale_K=torch.tensor(scale, dtype=torch.float32),
    )


def balanced_weights(labels_NK: NDArray[np.float32], label_set: LabelSet) -> NDArray[np.float64]:
    """Return the weight of each class: negatives / positives, or N / (K n_k) for multiclass.

    A class without records weighs 1: no record of the training folds asks for its weight.
    """
    n = len(labels_NK)
    if label_set.task == "multiclass":
        counts_K = np.bincount(labels_NK[:, 0].astype(np.int64), minlength=label_set.n_outputs)
        ideal_K = np.full(label_set.n_outputs, n / label_set.n_outputs)
    else:
        counts_K = (labels_NK > 0.5).sum(axis=0)
        ideal_K = (n - counts_K).astype(np.float64)
    present = (counts_K > 0) & (ideal_K > 0)
    weights_K = np.ones(label_set.n_outputs)
    weights_K[present] = ideal_K[present] / counts_K[present]
    return weights_K


def location_and_scale(labels_NK: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of each target over its known values; deviation 1 where it is constant.

    Raises:
        ValueError: a target has no known value.
    """
    labels = labels_NK.astype(np.float64)
    if not (~np.isnan(labels)).any(axis=0).all():
        raise ValueError("every regression target needs a known value in the training folds, but one has none")
    deviation_K = np.nanstd(labels, axis=0)
    return np.nanmean(labels, axis=0), np.where(deviation_K > 0, deviation_K, 1.0)
