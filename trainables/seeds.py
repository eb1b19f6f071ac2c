"""Seeds of one trial, spawned per use, so that no stream of random numbers depends on another's length."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Use(IntEnum):
    """What a seed is for. Part of every derived seed: a number, once given, keeps its meaning."""

    INIT = 0
    SHUFFLE = 1
    FORWARD = 2  # dropout and whatever else a model draws while it runs
    AUGMENT = 3
    MIX = 4
    FOLD = 5  # the trial's seed of each fold of a cross-validation
    PART = 6  # which training records stacking holds out from which heads
    BACKBONE = 9  # random weights that all trials share
    DIRECTION = 20  # of a zeroth-order gradient
    SPARSITY = 21
    MASK = 22  # of tokens, in pretraining


def derive_seed(use: Use, *entropy: int) -> int:
    """Return a 64-bit seed that depends on `use` and on every number of `entropy` (each >= 0)."""
    return int(_words(use, entropy, 1)[0])


def derive_key(use: Use, *entropy: int) -> NDArray[np.uint64]:
    """Return the key of a counter-based generator (Philox): two 64-bit words."""
    return _words(use, entropy, 2)


def _words(use: Use, entropy: tuple[int, ...], n_words: int) -> NDArray[np.uint64]:
    return np.random.SeedSequence((int(use), *entropy)).generate_state(n_words, np.uint64).astype(np.uint64)
