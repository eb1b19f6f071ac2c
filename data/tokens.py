"""Tokens: the pieces of a record that HuBERT-ECG's convolutions turn into one vector each, and where they lie.

The leads of a record are joined into one sequence, lead after lead; a stack of convolutions steps over it. A frame is
the stretch of that sequence that stands for a token when features are computed: frames do not overlap, and may span
the border of two leads (HuBERT-ECG, github.com/Edoar-do/HuBERT-ECG).

N: records, L: leads, T: timesteps, F: tokens, S: timesteps of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ConvStack:
    """Kernels and strides of the convolutions, from the signal up."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    def n_tokens(self, n_timesteps: int) -> int:
        """Return how many vectors the stack makes of a sequence; 0 where it is shorter than one kernel."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_timesteps = max(0, (n_timesteps - kernel) // stride + 1)
        return n_timesteps

    @property
    def hop(self) -> int:
        """Timesteps between two tokens."""
        return int(np.prod(self.strides))


CONV_STACKS: Mapping[float, ConvStack] = MappingProxyType(
    {
        50.0: ConvStack((10, 3, 3, 2), (4, 2, 2, 2)),
        100.0: ConvStack((10, 3, 3, 2, 2), (4, 2, 2, 2, 2)),
        500.0: ConvStack((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    }
)
"""Sampling rate in Hz -> the published stack: 5 s of 12 leads are 93 tokens at each of the three."""


def conv_stack(fs_hz: float) -> ConvStack:
    """Return the convolutions for a sampling rate.

    Raises:
        ValueError: there are none.
    """
    if fs_hz not in CONV_STACKS:
        rates = ", ".join(f"{rate:g}" for rate in CONV_STACKS)
        raise ValueError(
            f"HuBERT-ECG's convolutions are made for {rates} Hz, but the records have {fs_hz:g} Hz; "
            "bring them there in data.preprocess: [{resample: {fs_hz: 100}}]"
        )
    return CONV_STACKS[fs_hz]


@dataclass(frozen=True)
class TokenGrid:
    """Where the tokens of records of one shape lie.

    Raises:
        ValueError: the rate has no stack of convolutions, or the records are shorter than one token.
    """

    n_leads: int
    n_timesteps: int
    fs_hz: float

    def __post_init__(self) -> None:
        if self.n_tokens == 0:
            raise ValueError(
                f"records must be as long as one token at least, but {self.n_leads} leads x {self.n_timesteps} "
                f"timesteps at {self.fs_hz:g} Hz are shorter; take longer records"
            )

    @property
    def n_tokens(self) -> int:
        return conv_stack(self.fs_hz).n_tokens(self.n_leads * self.n_timesteps)

    @property
    def frame_timesteps(self) -> int:
        return self.n_leads * self.n_timesteps // self.n_tokens

    @cached_property
    def lead_slices(self) -> tuple[slice, ...]:
        """What each lead keeps: the timesteps that frames do not need go from both ends of every lead alike."""
        surplus = self.n_leads * self.n_timesteps - self.n_tokens * self.frame_timesteps
        ends = [(lead + 1) * surplus // self.n_leads for lead in range(self.n_leads)]
        cuts = np.diff([0, *ends]).tolist()
        return tuple(slice(cut // 2, self.n_timesteps - (cut - cut // 2)) for cut in cuts)

    def frames(self, values_NLT: NDArray[np.generic]) -> NDArray[np.generic]:
        """Cut records (or anything of their shape) into frames_NFS; a copy."""
        kept = [values_NLT[:, lead, part] for lead, part in enumerate(self.lead_slices)]
        return np.concatenate(kept, axis=1).reshape(len(values_NLT), self.n_tokens, self.frame_timesteps)

    def valid_NF(self, length_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Tell which tokens are signal, given the records' timesteps: at most half of the frame is padding."""
        time_T = np.arange(self.n_timesteps)
        signal_NLT = np.broadcast_to(
            (time_T < length_N[:, None])[:, None, :], (len(length_N), self.n_leads, self.n_timesteps)
        )
        return np.asarray(self.frames(signal_NLT).mean(axis=2) >= 0.5)
