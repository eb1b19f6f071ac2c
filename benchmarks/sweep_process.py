"""Run a sweep of one of the benchmarks' own methods: `python -m benchmarks.sweep_process SPEC.yaml ...`.

A spec can't name code, so this process adds the methods to the platform's table before the spec is
parsed; all else is `python -m platform.sweep`. Trials get their method pickled by reference to this package.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from benchmarks.node_memory import sampled
from benchmarks.noop import NOOP
from benchmarks.reading import READING
from benchmarks.waiting import WAITING, WAITING_WITH_TORCH
from platform.sweep import main as sweep
from trainables.methods import METHODS


def main() -> int:
    """Run the command line, and return the sweep's exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_process", description=__doc__)
    parser.add_argument("--memory", type=Path, metavar="FILE", help="write looks at the memory, a JSON line each")
    options, rest = parser.parse_known_args()
    METHODS.update({method.name: method for method in (NOOP, READING, WAITING, WAITING_WITH_TORCH)})
    with nullcontext() if options.memory is None else sampled(options.memory):
        return sweep(rest)


if __name__ == "__main__":
    sys.exit(main())
