"""The rule of the upstream miner (github.com/coinmetrics/precog 3.0.0), to compare with. In our own words."""

from __future__ import annotations

import numpy as np

from precog_runtime.types import Floats, Forecast, Series

FEWEST = 100  # prices; below that the interval is +- UNKNOWN
UNKNOWN = 0.10
NARROWEST, WIDEST = 0.02, 0.30  # bounds of the half-width, as a share of the price
OUTLIER = 3.0  # standard deviations
QUANTILE = 2.58  # of the normal distribution: 99 % lie within


class UpstreamRule:
    """The last price, and around it 2.58 standard deviations of 1-second returns, 2 % at least.

    The deviation is that of one second and is not scaled to the hour, so on real prices the bound of 2 % decides.
    """

    name = "upstream"
    lookback_s = 3600
    kind = "numpy"

    def forecast(self, asset: str, timestamp: int, series: Series) -> Forecast:
        """Forecast as upstream does; see `Model.forecast`."""
        last = float(series.prices[-1])
        margin = last * _half_width(series.prices)
        return Forecast(last, last - margin, last + margin)


def _half_width(prices: Floats) -> float:
    if len(prices) < FEWEST:
        return UNKNOWN
    with np.errstate(over="ignore", invalid="ignore"):
        returns = prices[1:] / prices[:-1] - 1
        kept = returns[np.abs(returns - returns.mean()) <= OUTLIER * returns.std(ddof=1)]
        spread = QUANTILE * float(kept.std(ddof=1)) if len(kept) > 1 else WIDEST
    # A spread that overflows is no number; it is wide.
    return min(max(spread, NARROWEST), WIDEST) if np.isfinite(spread) else WIDEST
