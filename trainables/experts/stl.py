"""STL, the decomposition of a series into trend, season and rest by local regressions, as two matrices.

Without its robustness iterations (the default of statsmodels) STL weighs timesteps by their distance in time alone, so
what it returns is linear in the series (Cleveland et al. 1990, J. Official Statistics 6:3, section 2). Its answers to
the unit series are therefore all of it: a product of matrices runs on any device and exports to ONNX.

T: timesteps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def stl_matrices(n_timesteps: int, period: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return trend_TT and season_TT, of which `trend_TT @ series_T` is the trend; the rest is what both leave.

    Smoothers are as wide as statsmodels takes them by default.
    """
    from statsmodels.tsa.seasonal import STL  # here: a second, which trials without it should not pay

    # What it makes of a series read backwards is the same, backwards: half of the unit series are enough.
    fits = [STL(unit_T, period=period).fit() for unit_T in np.eye(n_timesteps)[: -(-n_timesteps // 2)]]
    trend_TT, season_TT = (
        _with_reversed(np.stack([getattr(fit, name) for fit in fits], axis=1)) for name in ("trend", "seasonal")
    )
    return trend_TT.astype(np.float32), season_TT.astype(np.float32)


def _with_reversed(first_TH: NDArray[np.float64]) -> NDArray[np.float64]:
    """Complete the answers to the first half of the unit series by their mirror images."""
    n_timesteps, n_first = first_TH.shape
    return np.concatenate([first_TH, first_TH[::-1, : n_timesteps - n_first][:, ::-1]], axis=1)
