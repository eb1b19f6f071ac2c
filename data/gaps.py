"""Gaps in a signal: values that are not finite."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import Signal
from data.operation import Array, Operation

Filling = Literal["zero", "interpolate", "mean"]
Floats = TypeVar("Floats", bound=np.floating[Any])


class Nan(Operation):
    """Replace values that are not finite (NaN, infinity); a lead without any finite value becomes zero."""

    policy: Literal["zero", "interpolate", "mean", "refuse"] = Field(
        description="zero; the line between the neighbours; the mean of the lead's finite values; or an error"
    )

    def output_signal(self, signal: Signal) -> Signal:
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        if self.policy != "refuse":
            return fill_gaps(ecg_NLT, self.policy)
        n_gaps = int((~np.isfinite(ecg_NLT)).sum())
        if n_gaps:
            raise ValueError(f"nan: {n_gaps} values are not finite; choose a policy of zero, interpolate or mean")
        return ecg_NLT


def fill_gaps(ecg: NDArray[Floats], filling: Filling) -> NDArray[Floats]:
    """Replace values that are not finite along the last axis; returns the input itself where there are none."""
    gap = ~np.isfinite(ecg)
    if not gap.any():
        return ecg
    filled = np.where(gap, ecg.dtype.type(0), ecg)
    if filling != "zero":
        partly = gap.any(axis=-1) & ~gap.all(axis=-1)
        for lead in zip(*np.nonzero(partly), strict=True):
            filled[lead] = _fill_lead(ecg[lead], gap[lead], filling)
    return filled


def _fill_lead(ecg_T: NDArray[Floats], gap_T: NDArray[np.bool_], filling: Filling) -> NDArray[Floats]:
    if filling == "mean":
        return np.where(gap_T, ecg_T[~gap_T].mean(dtype=np.float64).astype(ecg_T.dtype), ecg_T)
    times = np.arange(len(ecg_T))
    return np.asarray(np.interp(times, times[~gap_T], ecg_T[~gap_T]), ecg_T.dtype)
