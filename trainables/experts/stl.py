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

    fits = [STL(unit_T, period=period).fit() for unit_T in np.eye(n_timesteps)]
    trend_TT = np.stack([fit.trend for fit in fits], axis=1)
    season_TT = np.stack([fit.seasonal for fit in fits], axis=1)
    return trend_TT.astype(np.float32), season_TT.astype(np.float32)
