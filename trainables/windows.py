"""Windows: the pieces of a record that a model sees at once, cropped at random in training and tiled in evaluation."""

from __future__ import annotations

from dataclasses import replace

from data.dataset import Signal
from trainables.config import TrainConfig


def window_timesteps(config: TrainConfig, signal: Signal) -> int:
    """Return how many timesteps of a record the model sees at once."""
    return signal.n_timesteps if config.crop_timesteps is None else config.crop_timesteps


def window_signal(config: TrainConfig, signal: Signal) -> Signal:
    """Return the shape of the model's input: the record's signal, as long as one window."""
    return replace(signal, n_timesteps=window_timesteps(config, signal))


def window_starts(config: TrainConfig, n_timesteps: int) -> tuple[int, ...]:
    """Return where the windows of an evaluated record start.

    They lie `window_stride` apart (default: half a window); the last one ends with the record, so that no
    timestep is left out.
    """
    if config.crop_timesteps is None:
        return (0,)
    stride = config.window_stride or max(1, config.crop_timesteps // 2)
    last = n_timesteps - config.crop_timesteps
    return (*range(0, last, stride), last)
