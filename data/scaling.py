"""Scaling records to a common range: z-scores and min-max."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import Signal
from data.leads import MIN_SD_MV
from data.operation import Array, Operation


class Zscore(Operation):
    """Subtract a mean and divide by a standard deviation. What is constant becomes zero."""

    per: Literal["lead", "record", "segment", "global"] = Field(
        description=(
            "over what: each lead of a record, all leads of a record together, each lead of each window (crop) inside "
            "the model, or all training records and leads together"
        )
    )

    @property
    def is_late(self) -> bool:
        """Whether the values are scaled after all steps: inside the model, or once the training records are known."""
        return self.per in ("segment", "global")

    def output_signal(self, signal: Signal) -> Signal:
        return replace(signal, standardise_windows=True) if self.per == "segment" else signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        """Standardise leads or records; windows and the whole are standardised later, by others."""
        if self.per == "lead":
            return standardise_rows(ecg_NLT)
        if self.per == "record":
            return standardise_rows(ecg_NLT.reshape(len(ecg_NLT), 1, math.prod(ecg_NLT.shape[1:]))).reshape(
                ecg_NLT.shape
            )
        return ecg_NLT


class MinMax(Operation):
    """Scale each lead of a record to [-1, 1]: 2 (x - min) / (max - min + eps) - 1. A constant one becomes zero."""

    eps: float = Field(1e-8, ge=0, description="added to the range", json_schema_extra={"unit": "mV"})

    def output_signal(self, signal: Signal) -> Signal:
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        ecg = ecg_NLT.astype(np.float64)
        low, high = ecg.min(axis=-1, keepdims=True), ecg.max(axis=-1, keepdims=True)
        scale = np.divide(2.0, high - low + self.eps, out=np.zeros_like(low), where=high - low > MIN_SD_MV)
        return np.where(scale > 0, (ecg - low) * scale - 1, 0).astype(np.float32)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation (mV) of all values of the training records after the steps before `zscore`."""

    mean: float
    sd: float

    def standardise(self, ecg_NLT: Array, length_N: NDArray[np.int32]) -> None:
        """Standardise in place, record by record; padding stays zero."""
        for ecg_LT, length in zip(ecg_NLT, length_N, strict=True):
            signal_LT = ecg_LT[:, :length]
            np.subtract(signal_LT, np.float32(self.mean), out=signal_LT)
            np.multiply(signal_LT, np.float32(1 / self.sd if self.sd > MIN_SD_MV else 0), out=signal_LT)


def record_sums(ecg_NLT: Array) -> NDArray[np.float64]:
    """Return each record's sum and sum of squares, in float64: sums_N2."""
    sums = np.empty((len(ecg_NLT), 2))
    for record, ecg_LT in enumerate(ecg_NLT):
        values = ecg_LT.astype(np.float64).reshape(-1)
        sums[record] = values.sum(), np.square(values).sum()
    return sums


def statistics(sums_N2: Iterable[Sequence[float]], n_values: int) -> Statistics:
    """Return mean and standard deviation of `n_values` values, all leads of all records without their padding.

    Exact sums: the order of records has no effect.
    """
    sums = list(sums_N2)
    mean = math.fsum(total for total, _ in sums) / n_values
    mean_square = math.fsum(squares for _, squares in sums) / n_values
    return Statistics(mean, math.sqrt(max(0.0, mean_square - mean**2)))


def standardise_rows(ecg_NLT: Array) -> Array:
    """z-score along time; rows with a standard deviation below `MIN_SD_MV` become zero."""
    ecg = np.ascontiguousarray(ecg_NLT, np.float64)
    ecg -= ecg.mean(axis=-1, keepdims=True)
    sd = np.sqrt(np.square(ecg).mean(axis=-1, keepdims=True))
    ecg *= np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > MIN_SD_MV)
    return ecg.astype(np.float32)
