"""Preprocessing steps: frozen models that say what is done, and pure functions on ecg_NLT that do it.

N records, L leads, T timesteps. Every record is processed by itself, so results do not depend on how records are
grouped; `zscore: {per: global}` is the one exception, and its statistics are exact sums over all training records.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator
from scipy import signal as scipy_signal

from data.dataset import Signal

SLAB_RECORDS = 64  # filters work in float64: a slab keeps that small, and near the cache
MIN_SD = 1e-6  # mV, far below any converter's step: a lead that varies less is constant

Array = NDArray[np.float32]


class Operation(BaseModel, ABC):
    """A step's parameters. Each says what it makes of a signal, which checks it, and does it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @abstractmethod
    def output_signal(self, signal: Signal) -> Signal:
        """Return the signal after this step.

        Raises:
            ValueError: the step can't be applied to `signal`.
        """

    def output_length(self, n_timesteps: int, signal: Signal) -> int:
        """Return what remains of a record of `n_timesteps` that is stored, padded, as `signal`."""
        return self.output_signal(replace(signal, n_timesteps=n_timesteps)).n_timesteps

    @abstractmethod
    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        """Apply the step to records of shape `signal`."""


class Bandpass(Operation):
    """Keep frequencies between two bounds: Butterworth, forwards and backwards, so without phase shift."""

    low_hz: float = Field(gt=0, description="lower -6 dB frequency", json_schema_extra={"unit": "Hz"})
    high_hz: float = Field(gt=0, description="upper -6 dB frequency", json_schema_extra={"unit": "Hz"})
    order: int = Field(3, ge=1, le=8, description="order of the Butterworth filter in each direction")

    @model_validator(mode="after")
    def _check_bounds(self) -> Bandpass:
        if self.low_hz >= self.high_hz:
            raise ValueError(f"bandpass: low_hz < high_hz must hold, got {self.low_hz} and {self.high_hz}")
        return self

    def output_signal(self, signal: Signal) -> Signal:
        _check_below_nyquist("bandpass", "high_hz", self.high_hz, signal)
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        return filter_twice(ecg_NLT, self._sections(signal.fs_hz))

    def _sections(self, fs_hz: float) -> NDArray[np.float64]:
        band_hz = (self.low_hz, self.high_hz)
        return np.asarray(scipy_signal.butter(self.order, band_hz, "bandpass", output="sos", fs=fs_hz))


class Notch(Operation):
    """Take out one frequency, such as the mains', forwards and backwards."""

    freq_hz: float = Field(gt=0, description="frequency taken out", json_schema_extra={"unit": "Hz"})
    q: float = Field(30.0, gt=0, description="quality: freq_hz over the -3 dB width of one pass")

    def output_signal(self, signal: Signal) -> Signal:
        _check_below_nyquist("notch", "freq_hz", self.freq_hz, signal)
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        return filter_twice(ecg_NLT, self._sections(signal.fs_hz))

    def _sections(self, fs_hz: float) -> NDArray[np.float64]:
        numerator, denominator = scipy_signal.iirnotch(self.freq_hz, self.q, fs=fs_hz)
        return np.asarray(scipy_signal.tf2sos(numerator, denominator))


class Resample(Operation):
    """Change the sampling rate with a polyphase filter."""

    fs_hz: float = Field(gt=0, description="sampling rate afterwards", json_schema_extra={"unit": "Hz"})

    def output_signal(self, signal: Signal) -> Signal:
        ratio = self._ratio(signal)
        if not math.isclose(float(ratio) * signal.fs_hz, self.fs_hz):
            raise ValueError(
                f"resample: fs_hz must be a ratio of numbers up to 1000 to the {signal.fs_hz:g} Hz before, "
                f"got {self.fs_hz:g}"
            )
        return replace(signal, fs_hz=self.fs_hz, n_timesteps=math.ceil(signal.n_timesteps * ratio))

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        ratio = self._ratio(signal)
        # Padding with the line between a record's ends: with zeros, a baseline offset rings at both.
        resampled = scipy_signal.resample_poly(ecg_NLT, ratio.numerator, ratio.denominator, axis=-1, padtype="line")
        return np.asarray(resampled, np.float32)

    def _ratio(self, signal: Signal) -> Fraction:
        return (Fraction(self.fs_hz) / Fraction(signal.fs_hz)).limit_denominator(1000)


class Leads(Operation):
    """Keep some leads, in the order given."""

    names: tuple[str, ...] = Field(min_length=1, description="names of leads, in any case")

    def output_signal(self, signal: Signal) -> Signal:
        return replace(signal, lead_names=tuple(signal.lead_names[index] for index in self._indices(signal)))

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        return ecg_NLT[:, self._indices(signal)]

    def _indices(self, signal: Signal) -> list[int]:
        known = {name.lower(): index for index, name in enumerate(signal.lead_names)}
        indices = []
        for name in self.names:
            if name.lower() not in known:
                near = difflib.get_close_matches(name.lower(), known, n=1)
                hint = f"; did you mean {signal.lead_names[known[near[0]]]!r}?" if near else ""
                raise ValueError(f"leads: {name!r} is not among {', '.join(signal.lead_names)}{hint}")
            indices.append(known[name.lower()])
        if len(set(indices)) < len(indices):
            raise ValueError(f"leads: each lead may be named once, got {', '.join(self.names)}")
        return indices


class Zscore(Operation):
    """Subtract a mean and divide by a standard deviation. What is constant becomes zero."""

    per: Literal["lead", "record", "segment", "global"] = Field(
        description=(
            "over what: each lead of a record, all leads of a record together, each lead of each window (crop) inside "
            "the model, or all training records and leads together"
        )
    )

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


class Step(BaseModel):
    """One preprocessing step, written as a mapping of its name to its parameters: `{zscore: {per: lead}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bandpass: Bandpass | None = Field(None, description="keep frequencies between two bounds")
    notch: Notch | None = Field(None, description="take out one frequency")
    resample: Resample | None = Field(None, description="change the sampling rate")
    leads: Leads | None = Field(None, description="keep some leads, in the order given")
    zscore: Zscore | None = Field(None, description="standardise; the last step")

    @model_validator(mode="after")
    def _check_one(self) -> Step:
        if len(self._given()) != 1:
            raise ValueError(
                f"a step has exactly one name, got {', '.join(name for name, _ in self._given()) or 'none'}; "
                f"write one list item a step, of: {', '.join(type(self).model_fields)}"
            )
        return self

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        return {name: operation.model_dump() for name, operation in self._given()}

    @property
    def operation(self) -> Operation:
        """The step's parameters."""
        return self._given()[0][1]

    def _given(self) -> list[tuple[str, Operation]]:
        values = [(name, getattr(self, name)) for name in type(self).model_fields]
        return [(name, value) for name, value in values if value is not None]


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
            np.multiply(signal_LT, np.float32(1 / self.sd if self.sd > MIN_SD else 0), out=signal_LT)


def output_signal(steps: Sequence[Step], signal: Signal) -> Signal:
    """Return what `steps` make of `signal`.

    Raises:
        ValueError: a step can't be applied to the signal that reaches it, or zscore is not the last.
    """
    for number, step in enumerate(steps, start=1):
        if step.zscore is not None and number < len(steps):
            raise ValueError(
                f"zscore must be the last preprocessing step, but is step {number} of {len(steps)}: move it"
            )
        signal = step.operation.output_signal(signal)
    return signal


def output_lengths(steps: Sequence[Step], signal: Signal, length_N: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the timesteps of each record after `steps`; the rest of it is padding."""
    lengths, which_N = np.unique(length_N, return_inverse=True)
    outputs = []
    for length in lengths.tolist():
        step_signal = signal
        for step in steps:
            length = step.operation.output_length(length, step_signal)  # noqa: PLW2901
            step_signal = step.operation.output_signal(step_signal)
        outputs.append(length)
    return np.array(outputs, np.int32)[which_N]


def preprocess(
    ecg_NLT: Array, steps: Sequence[Step], signal: Signal, length_N: NDArray[np.int32] | None = None
) -> Array:
    """Apply `steps` to records of shape `signal`; for `zscore: {per: global}`, `Statistics.standardise` follows.

    Args:
        length_N: timesteps of each record. A shorter one is processed without its padding, and padded afterwards.
    """
    output = output_signal(steps, signal)
    done_NLT = np.zeros((len(ecg_NLT), len(output.lead_names), output.n_timesteps), np.float32)
    length_N = np.full(len(ecg_NLT), signal.n_timesteps, np.int32) if length_N is None else length_N
    for length in np.unique(length_N).tolist():
        rows = np.flatnonzero(length_N == length)
        shorter = replace(signal, n_timesteps=length)
        for start in range(0, len(rows), SLAB_RECORDS):
            slab = rows[start : start + SLAB_RECORDS]
            part_RLT = _apply(ecg_NLT[slab, :, :length], steps, shorter)
            done_NLT[slab, :, : part_RLT.shape[2]] = part_RLT
    return done_NLT


def is_global(steps: Sequence[Step]) -> bool:
    """Tell whether the steps end with a standardisation over all training records."""
    zscore = steps[-1].zscore if steps else None
    return zscore is not None and zscore.per == "global"


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


def filter_twice(ecg_NLT: Array, sections: NDArray[np.float64]) -> Array:
    """Filter forwards and backwards along time, in float64. A short record is extended at its ends by less."""
    n_zeros = min(int((sections[:, 2] == 0).sum()), int((sections[:, 5] == 0).sum()))
    usual = 3 * (2 * len(sections) + 1 - n_zeros)  # scipy's own
    n_padded = min(usual, ecg_NLT.shape[-1] - 1)
    return np.asarray(scipy_signal.sosfiltfilt(sections, ecg_NLT, axis=-1, padlen=n_padded), np.float32)


def standardise_rows(ecg_NLT: Array) -> Array:
    """z-score along time; rows with a standard deviation below `MIN_SD` become zero."""
    ecg = np.ascontiguousarray(ecg_NLT, np.float64)
    ecg -= ecg.mean(axis=-1, keepdims=True)
    sd = np.sqrt(np.square(ecg).mean(axis=-1, keepdims=True))
    ecg *= np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > MIN_SD)
    return ecg.astype(np.float32)


def _apply(ecg_NLT: Array, steps: Sequence[Step], signal: Signal) -> Array:
    for step in steps:
        ecg_NLT = step.operation.apply(ecg_NLT, signal)
        signal = step.operation.output_signal(signal)
    return ecg_NLT


def _check_below_nyquist(step: str, key: str, value_hz: float, signal: Signal) -> None:
    if value_hz >= signal.fs_hz / 2:
        raise ValueError(f"{step}: {key} must be below half the sampling rate of {signal.fs_hz:g} Hz, got {value_hz:g}")
