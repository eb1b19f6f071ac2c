"""On a terminal a sweep shows a live table."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time

import pytest

from tests.sweeps.workplace import MARK, ROOT, Workplace


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_live_view_counts_trials_on_a_terminal(offline: Workplace) -> None:
    # Epochs enough that a table a second shows a trial running.
    spec = offline.write(
        budget={"trials": 2, "epochs": 30}, search={"metric": "val/auroc", "mode": "max", "scheduler": "none"}
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, MARK: str(offline.folder), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        offline.command(spec), cwd=ROOT, env=environment, start_new_session=True, stdin=theirs, stdout=theirs,
        stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    screen = _read_all(ours, timeout_s=500)
    assert process.wait(30) == 0, screen
    assert re.search(r"[12] running\s+\d completed\s+0 stopped\s+0 failed", screen)
    assert re.search(r"2 of 2", screen)
    assert "best model" in screen


def _read_all(descriptor: int, timeout_s: float) -> str:
    """Read what a program writes on its terminal until it ends, without colours and cursor movements."""
    content, end_s = b"", time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if not select.select([descriptor], [], [], 1)[0]:
            continue
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        content += chunk
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", content.decode(errors="replace"))
