"""STL as two matrices: what statsmodels finds of any series."""

from __future__ import annotations

import numpy as np
from statsmodels.tsa.seasonal import STL

from trainables.experts.stl import stl_matrices


def test_trend_and_season_of_any_series_are_those_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    trend_TT, season_TT = stl_matrices(336, 50)
    for series_T in rng.standard_normal((3, 336)).cumsum(axis=1):
        expected = STL(series_T, period=50).fit()
        np.testing.assert_allclose(trend_TT @ series_T, expected.trend, atol=1e-3)
        np.testing.assert_allclose(season_TT @ series_T, expected.seasonal, atol=1e-3)
        np.testing.assert_allclose(series_T - (trend_TT + season_TT) @ series_T, expected.resid, atol=2e-3)
