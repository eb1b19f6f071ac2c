"""Leads: their names and order, those that follow from others, and those without a signal."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data.dataset import Signal
from data.operation import Array, Operation

LEADS_12 = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
MIN_SD_MV = 1e-6  # far below any converter's step: a lead that varies less is constant

Floats = TypeVar("Floats", bound=np.floating[Any])

# Einthoven's and Goldberger's equations: shares of I and II.
_DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


class Leads(Operation):
    """Keep some leads, in the order given."""

    names: tuple[str, ...] = Field(min_length=1, description="names of leads, in any case")
    missing: Literal["refuse", "zero"] = Field(
        "refuse", description="a lead that the signal lacks: an error, or zeros; one of them must be there"
    )

    def output_signal(self, signal: Signal) -> Signal:
        indices = self._indices(signal)
        names = (name if i is None else signal.lead_names[i] for name, i in zip(self.names, indices, strict=True))
        return replace(signal, lead_names=tuple(names))

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        indices = self._indices(signal)
        picked_NLT = ecg_NLT[:, [index or 0 for index in indices]]
        picked_NLT[:, [index is None for index in indices]] = 0
        return picked_NLT

    def _indices(self, signal: Signal) -> list[int | None]:
        """Return where each lead is, None where it is missing."""
        known = {name.lower(): index for index, name in enumerate(signal.lead_names)}
        wanted = [name.lower() for name in self.names]
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"leads: each lead may be named once, got {', '.join(self.names)}")
        unknown = [name for name in self.names if name.lower() not in known]
        if unknown and (self.missing == "refuse" or len(unknown) == len(wanted)):
            near = difflib.get_close_matches(unknown[0].lower(), known, n=1)
            hint = f"; did you mean {signal.lead_names[known[near[0]]]!r}?" if near else ""
            raise ValueError(f"leads: {unknown[0]!r} is not among {', '.join(signal.lead_names)}{hint}")
        return [known.get(name) for name in wanted]


class DeriveLimbLeads(Operation):
    """Compute those of III, aVR, aVL and aVF that are missing from I and II; the limb leads come first."""

    def output_signal(self, signal: Signal) -> Signal:
        return replace(signal, lead_names=_derived_order(signal.lead_names))

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        return derive_limb_leads(ecg_NLT, signal.lead_names)[0]


class ConstantLeads(Operation):
    """Set leads that don't vary to zero."""

    min_sd_mv: float = Field(
        MIN_SD_MV, gt=0, description="standard deviation below which a lead is constant",
        json_schema_extra={"unit": "mV"},
    )  # fmt: skip

    def output_signal(self, signal: Signal) -> Signal:
        return signal

    def apply(self, ecg_NLT: Array, signal: Signal) -> Array:
        constant_NL1 = ecg_NLT.std(axis=-1, keepdims=True, dtype=np.float64) < self.min_sd_mv
        return np.where(constant_NL1, np.float32(0), ecg_NLT)


def derive_limb_leads(ecg: NDArray[Floats], lead_names: Sequence[str]) -> tuple[NDArray[Floats], tuple[str, ...]]:
    """Add those of III, aVR, aVL and aVF that are missing, computed from I and II.

    III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2.

    Args:
        ecg: ecg_LT, or ecg_NLT.

    Returns:
        The leads and their names: I, II, III, aVR, aVL, aVF, then the others in the order given.

    Raises:
        ValueError: I or II is missing.
    """
    order = _derived_order(lead_names)
    rows = {name.lower(): row for row, name in enumerate(lead_names)}
    one, two = ecg[..., rows["i"], :], ecg[..., rows["ii"], :]
    leads = [
        ecg[..., rows[name.lower()], :] if name.lower() in rows else one * _DERIVED[name][0] + two * _DERIVED[name][1]
        for name in order
    ]
    return np.stack(leads, axis=-2, dtype=ecg.dtype), order


def limb_lead_shares(name: str) -> tuple[float, float]:
    """Return the shares of I and II that III, aVR, aVL or aVF is made of."""
    return next(shares for derived, shares in _DERIVED.items() if derived.lower() == name.lower())


def _derived_order(lead_names: Sequence[str]) -> tuple[str, ...]:
    given = {name.lower(): name for name in lead_names}
    if not {"i", "ii"} <= given.keys():
        raise ValueError(f"derive_limb_leads: leads I and II are needed, got {', '.join(lead_names)}")
    limb = [given.get(name.lower(), name) for name in ("I", "II", *_DERIVED)]
    return (*limb, *(name for name in lead_names if name not in limb))
