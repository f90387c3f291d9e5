"""How validators score forecasts (github.com/coinmetrics/precog, validators/reward.py, v3.0.0).

The only copy of the formulas: the backtest and the log of predictions both use it.
"""

from __future__ import annotations

import numpy as np

from precog_runtime.types import Floats


def point_error(point: float, price: float) -> float:
    """Return what a validator counts against a point: its distance from the price, by the price."""
    return abs(point - price) / price


def coverage(low: float, high: float, prices: Floats) -> float:
    """Return the share of prices within an interval, 0 to 1.

    :param prices: shape (n,), n > 0, USD.
    """
    return float(np.mean((prices >= low) & (prices <= high)))


def interval_score(low: float, high: float, prices: Floats) -> float:
    """Return what a validator gives an interval: the share of prices within, times how much of it was needed.

    The latter is the overlap with the range of prices, by the interval's width; 0 for an interval without a width.

    :param prices: shape (n,), n > 0, USD: those of the horizon, both ends included.
    """
    if high <= low:
        return 0.0
    needed = min(high, float(prices.max())) - max(low, float(prices.min()))
    return coverage(low, high, prices) * (max(0.0, needed) / (high - low))
