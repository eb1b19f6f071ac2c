"""What every preprocessing step is: a frozen model of its parameters, and a pure function on ecg_NLT."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from data.dataset import Signal

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
        """Apply the step to records of shape `signal`; what is returned is as long as `output_length` says."""
