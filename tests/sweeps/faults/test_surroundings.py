"""Faults around a sweep: MLflow's server, the disk under the journal, a second process, a shard on the disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from random import Random
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from werkzeug.serving import make_server

from data.loading import make_store
from platform import tracking
from platform.sweeps import journal
from tests.sweeps.cluster.loopback import free_port
from tests.sweeps.faults.faulty_method import FAULTY
from tests.sweeps.faults.test_trials import RANDOM, moments
from tests.sweeps.tally import Tally
from tests.sweeps.workplace import ONE_LEAD, TINY_CNN, Workplace, states, wait_until
from trainables.methods import METHODS

START_TIMEOUT_S = 240
WITHOUT_TRAINING: dict[str, Any] = {
    "method": "faulty",
    "params": {"epoch_s": 0.3, "score": {"choice": [0.5, 0.6, 0.7, 0.8]}},
    "search": {"metric": "val/auroc", "mode": "max", "sampler": "grid", "scheduler": "none"},
    "budget": {"trials": 4, "epochs": 4},
    "resources": {"concurrency": 2},
}
SLOW = {**TINY_CNN, "batch_size": 8, "lr": {"loguniform": [1e-4, 1e-2]}}
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def _faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "faulty", FAULTY)


# ------------------------------------------------------------------ a second process


def test_a_sweep_that_runs_is_not_resumed_by_a_second_process(place: Workplace, tally: Tally) -> None:
    from platform.sweeps.folder import locked

    spec = place.write(budget={"trials": 1, "epochs": 1})
    assert place.main(spec) == 0
    before = place.events()
    with locked(place.runs / "tiny-001"):
        assert place.main(spec, "--resume", "--set", "budget.trials=2") == 2
    assert place.events() == before
    tally.check("resumed by two processes at once", place)


@pytest.mark.slow
@pytest.mark.faults
def test_a_sweep_is_resumed_by_nobody_at_any_moment_at_which_it_runs(
    place: Workplace, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = moments(None)
    spec = place.write(params=SLOW, budget={"trials": 8, "epochs": 10})
    process = place.start(spec)
    assert wait_until(lambda: _n_reports(place) >= 1, START_TIMEOUT_S), place.output
    for _ in range(10):
        time.sleep(chance.uniform(0, 1))
        assert place.main(spec, "--resume") == 2
        assert "another process" in capsys.readouterr().err
    assert process.poll() is None, "it ran all the time"
    assert process.wait(300) == 0, place.output
    tally.check("resumed by two processes at once", place, 10)


# ------------------------------------------------------------------ MLflow's server


@contextmanager
def answering(port: int) -> Iterator[None]:
    """Answer at `port` as MLflow's server does, from a thread of this process: it comes and goes in no time."""
    from mlflow.server import app

    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _come_and_go(place: Workplace, port: int, chance: Random, has_ended: Event) -> None:
    """Be down until a sweep has reported, up for a while, down for a while, and up until its end."""
    for down in range(2):
        wanted = _n_reports(place) + chance.randint(1, 3)
        assert wait_until(lambda: _n_reports(place) >= wanted, START_TIMEOUT_S)  # noqa: B023
        with answering(port):
            if down:
                assert has_ended.wait(60)
            else:
                time.sleep(chance.uniform(0.2, 1))


@pytest.mark.parametrize("seed", [7, *RANDOM])
def test_a_server_that_is_down_at_first_and_once_more_later_hears_everything_in_the_end(
    place: Workplace, tally: Tally, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", place.tracking_uri)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", str(place.folder / "artifacts"))
    port, has_ended = free_port(), Event()
    tracked = {"uri": f"http://127.0.0.1:{port}", "experiment": place.folder.name}
    with ThreadPoolExecutor(1) as pool:
        server = pool.submit(_come_and_go, place, port, moments(seed), has_ended)
        try:
            assert place.sweep(**WITHOUT_TRAINING, tracking=tracked) == 0
        finally:
            has_ended.set()
        server.result()
    for when in ("from the start", "for a while"):
        tally.check(f"MLflow's server down {when}", place)


def _lock_database(place: Workplace, chance: Random) -> None:
    """Hold MLflow's database for longer than SQLite waits for it."""
    wanted = chance.randint(1, 8)
    assert wait_until(lambda: _n_reports(place) >= wanted, START_TIMEOUT_S)
    with closing(sqlite3.connect(place.database, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(chance.uniform(6, 9))
        connection.execute("ROLLBACK")


@pytest.mark.parametrize("seed", RANDOM)
def test_a_database_of_mlflows_that_is_locked_for_a_while_hears_everything_in_the_end(
    place: Workplace, tally: Tally, seed: int | None
) -> None:
    with ThreadPoolExecutor(1) as pool:
        locked = pool.submit(_lock_database, place, moments(seed))
        assert place.sweep(**WITHOUT_TRAINING) == 0
        locked.result()
    tally.check("MLflow's database locked for a while", place)


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
    place: Workplace, tally: Tally, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    tracked = {"uri": f"http://127.0.0.1:{port}", "experiment": place.folder.name}
    assert place.sweep(budget={"trials": 2, "epochs": 2}, tracking=tracked) == 0
    assert f"python -m platform.tracking {place.runs / 'tiny-001'}" in capsys.readouterr().out
    with mlflow_server(place.database, port):
        assert tracking.main([str(place.runs / "tiny-001")]) == 0
    tally.check("MLflow's server down from the start", place)


@pytest.mark.slow
@pytest.mark.faults
def test_a_server_that_is_killed_and_started_again_hears_what_it_missed(offline: Workplace, tally: Tally) -> None:
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
    tally.check("MLflow's server down for a while", place)


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
    offline: Workplace, tally: Tally, seed: int | None
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
        tally.check("disk full under the journal", place)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        for size in (2**16, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


# ------------------------------------------------------------------ the clock


@pytest.mark.parametrize("seed", RANDOM)
def test_a_clock_that_is_moved_back_changes_nothing_that_a_sweep_does(
    place: Workplace, tally: Tally, monkeypatch: pytest.MonkeyPatch, seed: int | None
) -> None:
    moved_at, ticks = moments(seed).randint(2, 25), count()
    clock = SimpleNamespace(time=lambda: time.time() - 3600 * (next(ticks) >= moved_at))
    monkeypatch.setattr(journal, "time", clock)
    spec = place.write(**WITHOUT_TRAINING)
    assert place.main(spec, "--set", "budget.trials=2") == 0
    assert place.main(spec, "--resume", "--set", "budget.trials=4") == 0
    times_s = [event.time_s for event in place.events()]
    assert times_s != sorted(times_s)
    assert set(states(place.record()).values()) == {"COMPLETED"}
    tally.check("clock moved back", place)


# ------------------------------------------------------------------ a shard


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("seed", RANDOM)
def test_a_shard_that_is_damaged_in_the_middle_of_a_sweep_fails_the_trials_that_read_it(
    offline: Workplace, tally: Tally, seed: int | None
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
    tally.check("shard damaged in the middle of a sweep", place)


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "cut":
        os.truncate(path, len(content) // 2)
        return
    for byte in range(2000, len(content), 500):
        content[byte] ^= 1
    with path.open("r+b") as file:
        file.write(content)
