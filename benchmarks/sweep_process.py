"""Run a sweep of one of the benchmarks' own methods: `python -m benchmarks.sweep_process SPEC.yaml ...`.

A spec can't name code, so this process adds the methods to the platform's table before the spec is
parsed; all else is `python -m platform.sweep`. Trials get their method pickled by reference to this package.
"""

from __future__ import annotations

import sys

from benchmarks.noop import NOOP
from benchmarks.reading import READING
from platform.sweep import main
from trainables import METHODS

if __name__ == "__main__":
    METHODS.update({method.name: method for method in (NOOP, READING)})
    sys.exit(main())
