"""The memory meters, with tensors and arrays whose size is known."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.trainables.tiny_dataset import tiny_dataset
from trainables.memory import SAMPLE_EVERY_S, LiveTensors, PeakMemory, ProcessMemory
from trainables.plain_trial import PlainTrial
from trainables.supervised import SupervisedConfig, train

MIB = 2**20
CPU = torch.device("cpu")


def use(n_mib: int) -> None:
    array = np.ones(n_mib * MIB, dtype=np.uint8)
    time.sleep(3 * SAMPLE_EVERY_S)
    del array


def test_the_processes_peak_is_seen_after_the_memory_was_freed() -> None:
    with ProcessMemory() as meter:
        use(64)
        assert meter.peak_bytes == pytest.approx(64 * MIB, rel=0.15)


def test_each_trial_in_a_process_starts_from_zero() -> None:
    for n_mib in (96, 32, 32):
        with ProcessMemory() as meter:
            use(n_mib)
            assert meter.peak_bytes == pytest.approx(n_mib * MIB, rel=0.15)


def test_memory_that_the_trial_already_holds_is_added() -> None:
    with PeakMemory(CPU, held=[torch.zeros(64 * MIB)]) as meter:
        assert meter.peak_bytes == 4 * 64 * MIB
        assert 4 * 64 * MIB <= meter.process_peak_bytes < (4 * 64 + 10) * MIB


def test_the_meters_end_with_their_trial() -> None:
    meter = PeakMemory(CPU)
    with pytest.raises(RuntimeError, match="boom"), meter, meter.counting("step"):
        raise RuntimeError("boom")
    torch.zeros(1000).clone()
    assert meter.peak_bytes == 0
    assert "peak-memory" not in [thread.name for thread in threading.enumerate()]


def test_work_is_counted_the_first_second_fourth_eighth_time_and_so_on() -> None:
    peaks = []
    with PeakMemory(CPU) as meter:
        for n_values in range(1, 11):
            with meter.counting("step"):
                torch.zeros(1000 * n_values)
            peaks.append(meter.peak_bytes // 4000)
        with meter.counting("validation"):
            torch.zeros(20_000)
        assert meter.peak_bytes == 4 * 20_000
    assert peaks == [1, 2, 2, 4, 4, 4, 4, 8, 8, 8]


def test_tensors_that_go_while_nothing_is_counted_are_gone() -> None:
    with PeakMemory(CPU) as meter:
        with meter.counting("step"):
            kept = torch.zeros(1000)
        del kept
        with meter.counting("step"):
            torch.zeros(1000)
        assert meter.peak_bytes == 4000


def test_a_tensor_counts_while_it_lives_and_its_views_do_not() -> None:
    with LiveTensors() as meter:
        x = torch.zeros(1000)
        view = x[:10].view(2, 5)
        assert meter.live_bytes == 4000
        del x
        assert meter.live_bytes == 4000
        del view
        assert (meter.live_bytes, meter.peak_bytes) == (0, 4000)


def test_tensors_from_elsewhere_count_once_an_operation_meets_them() -> None:
    outside = torch.from_numpy(np.zeros(1000, dtype=np.float32))
    with LiveTensors() as meter:
        total = outside.sum()
        assert meter.live_bytes == 4000 + total.nbytes


@pytest.mark.parametrize("fake", [False, True])
def test_what_autograd_keeps_counts_until_it_is_used(fake: bool) -> None:
    """sigmoid keeps its output: three of them and the input live at the end of a forward pass."""
    with FakeTensorMode() if fake else torch.enable_grad(), LiveTensors() as meter:
        x = torch.zeros(1000, requires_grad=True)
        y = x.sigmoid().sigmoid().sigmoid()
        assert meter.live_bytes == 4 * 4000
        y.sum().backward()
        del y
        assert meter.live_bytes == 2 * 4000  # the input and its gradient


def test_a_pass_without_gradient_holds_two_layers_at_a_time() -> None:
    net = nn.Sequential(*(nn.Linear(100, 100, bias=False) for _ in range(5)))
    weights = 5 * 100 * 100 * 4
    with torch.no_grad(), LiveTensors(net.parameters()) as meter:
        net(torch.zeros(32, 100))
        assert meter.peak_bytes == weights + 3 * 32 * 100 * 4  # the caller's input, a layer's input and its output


def test_trainings_one_after_another_measure_the_same() -> None:
    dataset = tiny_dataset(n_train=64, n_val=16, n_timesteps=512)
    config = SupervisedConfig(model="xresnet1d18", epochs=1, batch_size=32)
    peaks = []
    for _ in range(2):
        trial = PlainTrial(seed=1)
        train(config, dataset, trial)
        peaks.append(trial.reports[1]["peak_memory_bytes"])
    assert peaks[1] == peaks[0]
    assert peaks[0] > 4 * 3 * 364_000  # weights and Adam's two averages
