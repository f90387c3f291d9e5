"""Intervals for forecasts made from prices that are older than they should be."""

from __future__ import annotations

import math

from precog_runtime.types import HORIZON_S, Forecast


def widen(forecast: Forecast, age_s: float) -> Forecast:
    """Return the forecast with an interval for prices that are `age_s` seconds old.

    The price at the timestamp is then itself unknown: a random walk has moved on by a variance of age_s / HORIZON_S
    of that of the horizon (Hull, Options, Futures and Other Derivatives, chapter 14: variances of a Wiener process
    add up). So both half-widths grow by sqrt(1 + age_s / HORIZON_S): 1.04 after 5 minutes, 1.41 after an hour. The
    width with the best expected score, found by simulating that walk, grows by 1.12, 1.29 and 1.47 after 15, 30 and 60
    minutes; this gives 1.12, 1.22 and 1.41. They grow on the scale of log prices, where no width reaches 0 USD.

    :param age_s: seconds, finite; a negative one (clocks differ) counts as 0.
    :raises ValueError: the age is not finite: there are no prices to forecast from.
    """
    if not math.isfinite(age_s):
        raise ValueError(f"age_s is {age_s}: nothing can be forecast from prices of no known age")
    factor = math.sqrt(1 + max(0.0, age_s) / HORIZON_S)
    point = forecast.point
    return Forecast(point, point * (forecast.low / point) ** factor, point * (forecast.high / point) ** factor)
