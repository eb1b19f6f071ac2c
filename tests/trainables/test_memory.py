"""The memory meter, with arrays whose size is known."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from trainables.memory import SAMPLE_EVERY_S, PeakMemory

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
