"""The memory meter, with arrays whose size is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.memory import SAMPLE_EVERY_S, PeakMemory
from trainables.plain_trial import PlainTrial
from trainables.supervised import SupervisedConfig, train

MIB = 2**20
CPU = torch.device("cpu")


def use(n_mib: int) -> None:
    array = np.ones(n_mib * MIB, dtype=np.uint8)
    time.sleep(3 * SAMPLE_EVERY_S)
    del array


def test_the_peak_is_seen_after_the_memory_was_freed() -> None:
    with PeakMemory(CPU) as meter:
        use(64)
        assert meter.peak_bytes == pytest.approx(64 * MIB, rel=0.15)


def test_each_trial_in_a_process_starts_from_zero() -> None:
    for n_mib in (96, 32, 32):
        with PeakMemory(CPU) as meter:
            use(n_mib)
            assert meter.peak_bytes == pytest.approx(n_mib * MIB, rel=0.15)


def test_memory_that_the_trial_already_holds_is_added() -> None:
    with PeakMemory(CPU, held_bytes=1000 * MIB) as meter:
        assert 1000 * MIB <= meter.peak_bytes < 1010 * MIB


def test_the_meter_ends_with_its_trial() -> None:
    meter = PeakMemory(CPU)
    with pytest.raises(RuntimeError, match="boom"), meter:
        raise RuntimeError("boom")
    assert not meter._sampler.is_alive()


def test_trainings_one_after_another_measure_the_same() -> None:
    dataset = tiny_dataset(n_train=64, n_val=16, n_timesteps=512)
    config = SupervisedConfig(model="xresnet1d18", epochs=1, batch_size=64)
    peaks = []
    for _ in range(3):
        trial = PlainTrial(seed=1)
        train(config, dataset, trial)
        peaks.append(trial.reports[1]["peak_memory_bytes"])
    assert peaks[2] == pytest.approx(peaks[1], rel=0.25)
    assert peaks[1] > 4 * 3 * 364_000  # weights and Adam's two averages
