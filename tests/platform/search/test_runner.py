"""What can be said of the runner without starting Ray; `tests/sweeps` runs it."""

from __future__ import annotations

import logging
import warnings

from platform.search import runner


def test_tunes_own_lines_stay_off_the_screen_while_it_runs() -> None:
    logger = logging.getLogger("ray.tune")
    before = logger.level
    with runner._quiet():
        assert not logger.isEnabledFor(logging.ERROR)
        warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="ray.tune.tune")
    assert logger.level == before
