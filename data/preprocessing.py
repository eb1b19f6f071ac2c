"""Preprocessing: a chain of named steps, and what it makes of records.

N records, L leads, T timesteps. Every record is processed by itself and without its padding, so results do not depend
on how records are grouped or stored; `zscore: {per: global}` is the one exception, and its statistics are exact sums
over all training records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer, model_validator

from data.crop import CropOrPad
from data.dataset import Signal
from data.filters import Bandpass, FirBandpass, Notch
from data.gaps import Nan
from data.leads import ConstantLeads, DeriveLimbLeads, Leads
from data.operation import Array, Operation
from data.presets import PRESETS, PresetName
from data.resampling import Decimate, Resample
from data.scaling import MinMax, Zscore

SLAB_RECORDS = 64  # filters work in float64: a slab keeps that small, and near the cache


class Step(BaseModel):
    """One preprocessing step, written as a mapping of its name to its parameters: `{zscore: {per: lead}}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: PresetName | None = Field(None, description="the steps of one of the five systems, in this one's place")
    bandpass: Bandpass | None = Field(None, description="keep frequencies between two bounds (Butterworth)")
    fir_bandpass: FirBandpass | None = Field(None, description="keep frequencies between two bounds (FIR)")
    notch: Notch | None = Field(None, description="take out one frequency")
    resample: Resample | None = Field(None, description="change the sampling rate")
    decimate: Decimate | None = Field(None, description="keep every factor-th timestep, after a low-pass")
    leads: Leads | None = Field(None, description="keep some leads, in the order given")
    derive_limb_leads: DeriveLimbLeads | None = Field(None, description="III, aVR, aVL, aVF from I and II: `{}`")
    constant_leads: ConstantLeads | None = Field(None, description="leads without a signal become zero: `{}`")
    nan: Nan | None = Field(None, description="replace values that are not finite")
    zscore: Zscore | None = Field(None, description="standardise; per segment and global, it is the last step")
    minmax: MinMax | None = Field(None, description="scale each lead to [-1, 1]: `{}`")
    crop_or_pad: CropOrPad | None = Field(None, description="bring records to one length")

    @staticmethod
    def of(operation: Operation) -> Step:
        """Return the step that an operation is the parameters of."""
        fields = Step.model_fields.items()
        (name,) = (name for name, field in fields if type(operation) in get_args(field.annotation))
        return Step.model_validate({name: operation})

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
        return {name: value.model_dump() if isinstance(value, Operation) else value for name, value in self._given()}

    @property
    def operation(self) -> Operation:
        """The step's parameters; a preset has none, as `Steps` puts its steps in its place."""
        value = self._given()[0][1]
        assert isinstance(value, Operation), value
        return value

    def _given(self) -> list[tuple[str, Operation | PresetName]]:
        values = [(name, getattr(self, name)) for name in type(self).model_fields]
        return [(name, value) for name, value in values if value is not None]


def resolve_presets(steps: Sequence[Step]) -> tuple[Step, ...]:
    """Put the steps of each preset in its place."""
    resolved: list[Step] = []
    for step in steps:
        resolved += [step] if step.preset is None else map(Step.of, PRESETS[step.preset])
    return tuple(resolved)


Steps = Annotated[tuple[Step, ...], AfterValidator(resolve_presets)]
"""A chain as users write it; it holds the steps of presets once it is validated."""


def output_signal(steps: Sequence[Step], signal: Signal) -> Signal:
    """Return what `steps` make of `signal`.

    Raises:
        ValueError: a step can't be applied to the signal that reaches it, or a z-score that comes late is not the last.
    """
    for number, step in enumerate(steps, start=1):
        if step.zscore is not None and step.zscore.is_late and number < len(steps):
            raise ValueError(
                f"zscore per {step.zscore.per} must be the last preprocessing step, but is step {number} of "
                f"{len(steps)}: move it"
            )
        signal = step.operation.output_signal(signal)
    return signal


def output_lengths(steps: Sequence[Step], signal: Signal, length_N: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the timesteps of each record after `steps`; the rest of it is padding."""
    lengths, which_N = np.unique(length_N, return_inverse=True)
    outputs = [_output_length(steps, replace(signal, n_timesteps=length)) for length in lengths.tolist()]
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


def _apply(ecg_NLT: Array, steps: Sequence[Step], signal: Signal) -> Array:
    for step in steps:
        ecg_NLT = step.operation.apply(ecg_NLT, signal)
        signal = without_padding(step, signal)
        assert ecg_NLT.shape[1:] == (len(signal.lead_names), signal.n_timesteps), step
    return ecg_NLT


def _output_length(steps: Sequence[Step], signal: Signal) -> int:
    for step in steps:
        signal = without_padding(step, signal)
    return signal.n_timesteps


def without_padding(step: Step, signal: Signal) -> Signal:
    """Return what a step makes of one whole record, the padding that it asks for left out."""
    length = step.operation.output_length(signal.n_timesteps, signal)
    return replace(step.operation.output_signal(signal), n_timesteps=length)
