"""A measured program as a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
N_TAIL_LINES: Final = 20


def run_child(module: Sequence[str], folder: Path) -> float:
    """Run `python -m MODULE ...` in the project's root, its output in `folder`; return its wall time in seconds.

    Raises:
        RuntimeError: it ended with an error; its last lines are in the message.
    """
    log = folder / "log"
    with log.open("w", encoding="utf-8") as output:
        begin_s = time.perf_counter()
        command = [sys.executable, "-m", *module]
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
        wall_s = time.perf_counter() - begin_s
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-N_TAIL_LINES:])
        raise RuntimeError(f"{' '.join(module)} ended with exit code {code}:\n{tail}")
    return wall_s
