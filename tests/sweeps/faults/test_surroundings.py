"""Faults around a sweep: MLflow's server, the disk under the journal, a second process, a shard on the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.loading import make_store
from platform import tracking
from tests.sweeps.cluster.test_autoscaler import free_port
from tests.sweeps.faults.tally import TALLY
from tests.sweeps.faults.test_trials import RANDOM, moments
from tests.sweeps.workplace import ONE_LEAD, TINY_CNN, Workplace, states, wait_until

START_TIMEOUT_S = 240
SLOW = {**TINY_CNN, "batch_size": 8, "lr": {"loguniform": [1e-4, 1e-2]}}
pytestmark = pytest.mark.timeout(900)


# ------------------------------------------------------------------ a second process


def test_a_sweep_that_runs_is_not_resumed_by_a_second_process(place: Workplace) -> None:
    from platform.sweeps.folder import locked

    spec = place.write(budget={"trials": 1, "epochs": 1})
    assert place.main(spec) == 0
    before = place.events()
    with locked(place.runs / "tiny-001"):
        assert place.main(spec, "--resume", "--set", "budget.trials=2") == 2
    assert place.events() == before
    TALLY.check("resumed by two processes at once", place)


# ------------------------------------------------------------------ MLflow's server


@contextmanager
def mlflow_server(database: Path, port: int) -> Iterator[None]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(database.parent / "artifacts"),
    ]  # fmt: skip
    with (database.parent / "server.txt").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            assert wait_until(lambda: _answers(port), 120), (database.parent / "server.txt").read_text()
            yield
        finally:
            os.killpg(server.pid, signal.SIGKILL)  # its own session: the server and its worker
            server.wait(30)


def _answers(port: int) -> bool:
    import requests

    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.slow
@pytest.mark.faults
def test_a_server_that_is_down_from_the_start_costs_nothing_and_hears_all_later(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    tracked = {"uri": f"http://127.0.0.1:{port}", "experiment": place.folder.name}
    assert place.sweep(budget={"trials": 2, "epochs": 2}, tracking=tracked) == 0
    assert f"python -m platform.tracking {place.runs / 'tiny-001'}" in capsys.readouterr().out
    with mlflow_server(place.database, port):
        assert tracking.main([str(place.runs / "tiny-001")]) == 0
    TALLY.check("MLflow's server down from the start", place)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", [pytest.param(n, id=f"random-{n}") for n in range(3)])
def test_a_server_that_is_down_for_a_while_hears_what_it_missed(offline: Workplace, seed: int) -> None:
    place, port, chance = offline, free_port(), moments(None)
    tracked = {"uri": f"http://127.0.0.1:{port}", "experiment": place.folder.name}
    spec = place.write(params=SLOW, budget={"trials": 4, "epochs": 6}, tracking=tracked)
    with mlflow_server(place.database, port):
        process = place.start(spec)
        wanted = chance.randint(2, 8)
        assert wait_until(lambda: _n_reports(place) >= wanted or process.poll() is not None, START_TIMEOUT_S)
    time.sleep(chance.uniform(1, 4))
    with mlflow_server(place.database, port):
        assert process.wait(300) == 0, place.output
        tracking.main([str(place.runs / "tiny-001")])
    TALLY.check("MLflow's server down for a while", place)


def _n_reports(place: Workplace) -> int:
    return place.record().epochs if (place.runs / "tiny-001").exists() else 0


# ------------------------------------------------------------------ a full disk


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk in memory of that size, or skip."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this account may not mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", RANDOM)
def test_a_disk_that_is_full_under_journal_and_checkpoints_interrupts_the_sweep_which_goes_on_later(
    offline: Workplace, seed: int | None
) -> None:
    place, chance = offline, moments(seed)
    spec = place.write(params=SLOW, budget={"trials": 4, "epochs": 6})
    with small_disk(place.runs, "40m"):
        process = place.start(spec)
        wanted = chance.randint(1, 10)
        assert wait_until(lambda: _n_reports(place) >= wanted or process.poll() is not None, START_TIMEOUT_S)
        filler = place.runs / "filler"
        _fill(filler)
        code = process.wait(300)
        assert code in (0, 130), place.output
        if code:
            assert "make room, and go on with" in place.output
            assert "Traceback" not in place.output
        filler.unlink()
        if code:
            assert place.start(spec, "--resume").wait(300) == 0, place.output
        assert "FAILED" not in states(place.record()).values()
        TALLY.check("disk full under the journal", place)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


# ------------------------------------------------------------------ a shard


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", RANDOM)
def test_a_shard_that_is_damaged_in_the_middle_of_a_sweep_fails_the_trials_that_read_it(
    offline: Workplace, seed: int | None
) -> None:
    from data.config import DataConfig

    place, chance = offline, moments(seed)
    data = {"store": str(place.folder / "own"), "synthetic": ONE_LEAD, "memory_bytes": 0}
    make_store(DataConfig.model_validate(data))
    spec = place.write(params=SLOW, data=data, budget={"trials": 3, "epochs": 6})
    process = place.start(spec)
    wanted = chance.randint(1, 6)
    assert wait_until(lambda: _n_reports(place) >= wanted or process.poll() is not None, START_TIMEOUT_S)
    n_before = _n_reports(place)
    for path in (place.folder / "own").glob("*.h5"):
        _damage(path, chance.choice(["flip", "cut"]))
    assert process.wait(300) in (0, 1), place.output
    record = place.record()
    assert record.epochs <= n_before + 1, "nothing was trained on what was damaged"
    failed = [trial for trial in record.trials.values() if trial.state == "FAILED"]
    assert failed
    assert all("CorruptShard" in trial.error for trial in failed)
    TALLY.check("shard damaged in the middle of a sweep", place)


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        os.truncate(path, len(content) // 2)
        return
    for byte in range(2000, len(content), 500):
        content[byte] ^= 1
    with path.open("r+b") as file:
        file.write(content)
