"""Work that a thread repeats goes on as long as its block, and no longer."""

from __future__ import annotations

import threading
import time

import pytest

from data.repeating import repeating


def names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_work_is_repeated_until_the_block_ends_whatever_ends_it() -> None:
    three = threading.Event()
    calls: list[str] = []

    def work() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            three.set()

    def run() -> None:
        with repeating(work, 0.001, "worker"):
            assert three.wait(20)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        run()
    assert set(calls) == {"worker"}
    assert "worker" not in names()
    n_calls = len(calls)
    time.sleep(0.01)
    assert len(calls) == n_calls


def test_the_first_turn_comes_after_the_first_pause() -> None:
    calls: list[int] = []
    with repeating(lambda: calls.append(1), 60, "worker"):
        assert "worker" in names()
    assert calls == []
