"""What can be said of the runner without starting Ray; `tests/sweeps` runs it."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from platform import runner
from platform.runner import SETTINGS, concurrency, ray_cluster
from platform.spec_sections import ResourcesSpec


def fits(monkeypatch: pytest.MonkeyPatch, available: dict[str, float], **resources: Any) -> int:
    monkeypatch.setattr(ray, "cluster_resources", lambda: available)
    return concurrency(ResourcesSpec(**resources))


@pytest.mark.parametrize(
    ("available", "resources", "expected"),
    [
        ({"CPU": 2.0}, {}, 2),
        ({"CPU": 2.0}, {"cpus": 2.0}, 1),
        ({"CPU": 2.0}, {"cpus": 0.2}, 10),  # 2 // 0.2 is 9
        ({"CPU": 16.0}, {"workers": 3, "cpus": 2.0}, 2),
        ({"CPU": 16.0, "GPU": 1.0}, {"gpus": 0.1}, 10),
        ({"CPU": 4.0, "GPU": 8.0}, {"gpus": 0.5}, 4),  # the CPUs are the bottleneck
        ({"CPU": 64.0, "GPU": 8.0}, {"workers": 4, "gpus": 1.0}, 2),
        ({"CPU": 16.0}, {"concurrency": 3}, 3),
        ({"CPU": 2.0}, {"concurrency": 100}, 2),
    ],
)
def test_as_many_trials_run_as_the_cluster_holds(
    monkeypatch: pytest.MonkeyPatch, available: dict[str, float], resources: dict[str, Any], expected: int
) -> None:
    assert fits(monkeypatch, available, **resources) == expected


@pytest.mark.parametrize("resources", [{"cpus": 4.0}, {"gpus": 1.0}, {"workers": 3}])
def test_a_trial_that_can_never_run_is_refused(monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"a trial needs .* but the cluster has 2 and 0; lower resources.workers"):
        fits(monkeypatch, {"CPU": 2.0}, **resources)


@given(cpus=st.integers(1, 64), workers=st.integers(0, 8), each=st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 3.0]))
def test_the_trials_together_never_ask_for_more_than_there_is(cpus: int, workers: int, each: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        try:
            n_trials = fits(patch, {"CPU": float(cpus)}, workers=workers, cpus=each)
        except ValueError:
            n_trials = 0
    group = max(1, workers) * each
    assert n_trials * group <= cpus + 1e-6
    assert (n_trials + 1) * group > cpus - 1e-6


def test_a_cluster_that_is_there_is_used_and_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", refuse)
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that the end of the test takes back what is set here
        monkeypatch.delenv(name)
    with ray_cluster():
        assert {name: os.environ[name] for name in SETTINGS} == SETTINGS


def test_a_cluster_that_was_started_here_is_stopped_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    with pytest.raises(RuntimeError, match="boom"), ray_cluster():
        raise RuntimeError("boom")
    assert calls == ["init", "shutdown"]


def test_a_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setenv("TUNE_WARN_THRESHOLD_S", "77")
    with ray_cluster():
        assert os.environ["TUNE_WARN_THRESHOLD_S"] == "77"


def test_every_setting_is_one_that_the_installed_ray_reads() -> None:
    root = Path(ray.__file__).parent
    names = set(SETTINGS)
    for folder in ("tune", "train", "air", "_private"):
        for path in (root / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            names -= {name for name in names if name in text}
    assert names == set()


def test_tunes_own_lines_stay_off_the_screen_while_it_runs() -> None:
    logger = logging.getLogger("ray.tune")
    before = logger.level
    with runner._quiet():
        assert not logger.isEnabledFor(logging.ERROR)
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="ray.tune.tune")
    assert logger.level == before
