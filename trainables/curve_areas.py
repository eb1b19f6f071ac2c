"""Areas under one class's ROC and precision-recall curves, in float64, of records that count any number of times.

N: records, R: resamples, T: distinct predictions, from the largest down.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def curve_areas(predicted_N: Floats, truth_N: Floats, weights_RN: Floats) -> dict[str, Floats]:
    """Return `auroc`, `auprc` (trapezoids) and `ap` (step-wise sum) of each resample, values_R.

    They are meaningless where a resample has no positives or no negatives. torchmetrics has the same definitions but
    divides in float32.

    Args:
        truth_N: 0 or 1.
        weights_RN: how often each record counts.
    """
    order_N = np.argsort(-predicted_N, kind="stable")
    last_T = np.flatnonzero(np.diff(predicted_N[order_N], append=np.nan))  # of equal predictions
    sorted_RN = weights_RN[:, order_N]
    called_RT = np.cumsum(sorted_RN, axis=1)[:, last_T]
    tp_RT = np.cumsum(sorted_RN * truth_N[order_N], axis=1)[:, last_T]
    fp_RT = called_RT - tp_RT
    recall_RT, fall_out_RT = ratio(tp_RT, tp_RT[:, -1:]), ratio(fp_RT, fp_RT[:, -1:])
    precision_RT = ratio(tp_RT, called_RT, otherwise=1.0)  # where nothing is called yet
    return {
        "auroc": _trapezoids(recall_RT, fall_out_RT, first=0.0),
        "auprc": _trapezoids(precision_RT, recall_RT, first=1.0),
        "ap": (np.diff(recall_RT, axis=1, prepend=0.0) * precision_RT).sum(axis=1),
    }


def ratio(part: Floats, whole: Floats, otherwise: float = 0.0) -> Floats:
    """Return part / whole, and `otherwise` where the whole is not positive."""
    whole = np.broadcast_to(whole, part.shape)
    quotient: Floats = np.divide(part, whole, out=np.full(part.shape, otherwise), where=whole > 0)
    return quotient


def _trapezoids(y_RT: Floats, x_RT: Floats, first: float) -> Floats:
    """Return the area under a curve that begins at x = 0, y = `first`."""
    before_RT = np.concatenate([np.full((len(y_RT), 1), first), y_RT[:, :-1]], axis=1)
    area_R: Floats = (np.diff(x_RT, axis=1, prepend=0.0) * (y_RT + before_RT) / 2).sum(axis=1)
    return area_R
