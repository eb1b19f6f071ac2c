"""Joining a cluster or starting one, without Ray; the marker `cluster` has tests with nodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray

from data.bucket import COPIES, path_of
from platform.cluster import SETTINGS, check_code_size, default_address, init_options, ray_cluster
from platform.project import ROOT
from platform.specs.storage import JOB


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


def test_everything_that_ray_starts_here_listens_on_the_loopback_and_asks_for_the_token() -> None:
    assert (
        init_options("local")["dashboard_host"] == "127.0.0.1"
    )  # `tests/sweeps/faults/test_secrets.py` looks at the sockets
    assert SETTINGS["RAY_AUTH_MODE"] == "token"


def test_a_cluster_gets_the_code_and_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(JOB, raising=False)
    options = init_options("auto")
    assert options["address"] == "auto"
    # Copies of buckets are where they are here: the same path on every node.
    variables = {**SETTINGS, COPIES: str(path_of("s3://bucket").parents[1])}
    assert options["runtime_env"] == {"working_dir": str(ROOT), "env_vars": variables}


def test_a_job_has_brought_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(JOB, "{}")
    assert set(init_options("10.0.0.1:6379")["runtime_env"]) == {"env_vars"}


def test_ray_client_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"does not run through Ray Client; .* ray job submit"):
        init_options("ray://head:10001")


def test_the_environment_names_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert default_address() == "10.0.0.1:6379"
    monkeypatch.delenv("RAY_ADDRESS")
    assert default_address() == "local"


def test_code_that_is_too_large_is_refused_before_ray_does(tmp_path: Path) -> None:
    (tmp_path / "trainables").mkdir()
    (tmp_path / "trainables" / "weights.bin").write_bytes(bytes(2000))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "big.bin").write_bytes(bytes(5000))
    (tmp_path / ".rayignore").write_text("runs/\n", encoding="utf-8")
    check_code_size(tmp_path, 3000)
    with pytest.raises(ValueError, match=r"has 2\.0 kB of code, more than the 1\.0 kB .* \(largest: trainables"):
        check_code_size(tmp_path, 1000)


def test_the_projects_own_code_is_small() -> None:
    check_code_size(ROOT, 20_000_000)
