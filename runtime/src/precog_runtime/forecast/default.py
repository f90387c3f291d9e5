"""The default model: a random walk whose level and volatility are estimated against noise, jumps, gaps and stalls.

All is done on logarithms of prices relative to the newest one, so forecasts scale with prices. Variances are those of
a second unless a name says otherwise. docs/runtime/model.md tells the method in one place, with what it was measured
to give.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from precog_runtime.forecast.degrade import widen
from precog_runtime.types import HORIZON_S, Floats, Forecast, Ints, Series

# numpy loads these parts when they are first named (`np.median` names the second). They are loaded at the start: a
# process that has run out of file descriptors can't load anything.
LOADED = (np.fft, np.ma)

# The half-width that maximises the validators' expected interval score for a Brownian motion, in its deviations over
# the horizon. The joint law of a path and its extremes (the reflection principle) gives the expected score as an
# integral; its maximum, 0.549, is here. tests/test_forecast.py computes it.
BEST_HALF_WIDTH = 0.83
NOISE_WIDTH = 1.0  # deviations of the noise by which it moves the best half-width (simulated)
# The best half-width for a process that reverts at the rate x / horizon is by (1 + x) ** this smaller (simulated).
REVERTING_WIDTH = -0.3
CELL_S = 15  # prices are averaged over cells of this
LAG = 4  # cells of a return: at 60 s the reference rates' own smoothing, and noise, no longer show
STAGGER = LAG + 1  # cells between the factors of the bipower variation, so that they share none
FILL_S = 60  # a gap up to this is bridged by the price before it
STALL_S = 300  # a price that stands still so long is a stopped feed, and counts as no data
# The volatility is a weighted geometric mean over these lookbacks, s: it clusters, but not for ever (Corsi 2009).
SPANS = ((1800, 0.5), (7200, 0.3), (21600, 0.2))
FEWEST_PAIRS = (
    20  # minutes' returns, with neighbours, for an estimate from them; below, all returns are used as they are
)
MOST_NOISE = 0.01  # bound of the noise's deviation, and with it of the level's distance from the newest price
PRIOR_SIGMA = 0.01  # of the hour, where little is known: that of a lively asset, so rather too wide
PRIOR_MINUTES = 3.0  # how much data it counts for
LEAST_SIGMA, MOST_SIGMA = 0.0003, 0.25  # bounds of the hour's: 2.8 % and 2300 % a year
NOISE_S = 3600  # lookback for the noise
NOISE_ERRORS = 4.0  # standard errors that make it evident: a random walk gets there once in 30,000 times
MEMORY_S = 60  # the filter of the level forgets what is older
FEWEST_MINUTES = 120  # for mean reversion to be looked for
MOST_MISSING = 0.1  # share of them without prices, for the same
# Logarithm of the likelihood ratio from which on mean reversion is believed at all (a random walk gets there 3 times in
# 1000), and at which by half: prior odds of 1 to 1100.
EVIDENT, EVEN = 5.0, 7.0
OUTLIER = 4.0  # robust deviations at which a return is cut off
ROBUST = 1.4826  # deviation of a normal distribution over the median of its sizes
HALF_LIVES = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0)  # minutes, of a deviation from the fair price
BURSTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 128.0)  # variance of the deviation's steps over that of the fair price's


class DefaultModel:
    """A random walk, but for noise and mean reversion where they are evident. See the module."""

    name = "rw-1"
    lookback_s = 21600
    kind = "numpy"

    def forecast(self, asset: str, timestamp: int, series: Series) -> Forecast:
        """Forecast the horizon after `timestamp`; see `Model.forecast`."""
        times, logs = _relative(series, timestamp - self.lookback_s)
        moving = _moving(times, logs)
        stalled_s = float(times[-1] - times[moving][-1])
        times, logs = times[moving], logs[moving]
        noise = _noise(times, logs)
        cells = _cells(times, logs)
        variance = _variance(times, logs, cells, noise.variance)
        view = _view(cells)
        half = BEST_HALF_WIDTH * math.sqrt(variance * view.width) + NOISE_WIDTH * math.sqrt(noise.variance)
        # A path that is expected to go somewhere has its range there: the best interval has both ends of the way.
        half = math.hypot(half, view.end / 2)
        point, centre = noise.level + view.end, noise.level + view.path
        last = float(series.prices[-1])
        low, high = min(point, centre - half), max(point, centre + half)
        return widen(Forecast(last * math.exp(point), last * math.exp(low), last * math.exp(high)), stalled_s)


def _relative(series: Series, start: int) -> tuple[Ints, Floats]:
    """Return times and log prices relative to the newest, from `start` on; the newest price alone if it is older."""
    first = min(int(np.searchsorted(series.times, start)), len(series) - 1)
    with np.errstate(over="ignore"):
        ratios = series.prices[first:] / series.prices[-1]
    return series.times[first:], np.log(np.clip(ratios, 1e-300, 1e300))


def _moving(times: Ints, logs: Floats) -> npt.NDArray[np.bool_]:
    """Return which prices are data: all but the later ones of a stretch in which the feed stood still."""
    starts = np.flatnonzero(np.concatenate([[True], logs[1:] != logs[:-1]]))
    lengths = np.diff(np.append(starts, len(logs)))
    still = times[starts + lengths - 1] - times[starts] >= STALL_S
    kept = ~np.repeat(still, lengths)
    kept[starts] = True
    return kept


class _Noise(NamedTuple):
    """Independent noise on each price.

    :ivar variance: of it; 0 if there is none that is evident.
    :ivar level: log of the price without it, relative to the newest price.
    """

    variance: float
    level: float


def _noise(times: Ints, logs: Floats) -> _Noise:
    """Estimate the noise from the covariance of neighbouring returns, which is minus its variance (Roll 1984).

    A random walk with noise is the local-level model, whose filter in the steady state is exponential smoothing
    (Muth 1960; Harvey 1989, 4.1.2).
    """
    first = int(np.searchsorted(times, times[-1] - NOISE_S))
    returns, steps = np.diff(logs[first:]), np.diff(times[first:])
    pairs = (steps[1:] == 1) & (steps[:-1] == 1)
    products = (returns[1:] * returns[:-1])[pairs]
    square, total = float(np.sum(products**2)), float(np.sum(products))
    if total >= -NOISE_ERRORS * math.sqrt(square) or not total:
        return _Noise(0.0, 0.0)
    variance = min(-total / len(products), MOST_NOISE**2)
    # Minus the correlation of neighbours; that of the model is below a half.
    correlation = min(0.4999, -total / float(np.sum(returns[1:][pairs] ** 2)))
    memory = (1 - math.sqrt(1 - 4 * correlation**2)) / (2 * correlation)
    recent = int(np.searchsorted(times, times[-1] - MEMORY_S))
    weights = memory ** (times[-1] - times[recent:])
    level = float(np.sum(weights * logs[recent:]) / np.sum(weights))
    return _Noise(variance, min(max(level, -MOST_NOISE), MOST_NOISE))


def _cells(times: Ints, logs: Floats) -> Floats:
    """Return the means of cells of CELL_S seconds, oldest first, that end with the newest price; NaN where none is.

    Averaging takes the noise out (Jacod, Li, Mykland, Podolskij, Vetter 2009).
    """
    back = (times[-1] - times) // CELL_S
    size = int(back[0]) + 1
    counts = np.bincount(back, minlength=size)
    with np.errstate(invalid="ignore"):
        means = np.bincount(back, logs, minlength=size) / counts
    means = means[::-1]
    # Index of the last cell with prices, so far.
    known = np.maximum.accumulate(np.where(np.isnan(means), -1, np.arange(size)))
    near = np.arange(size) - known <= FILL_S // CELL_S
    filled: Floats = np.where(near, means[known], np.nan)
    return filled


def _variance(times: Ints, logs: Floats, cells: Floats, noise: float) -> float:
    """Return the variance of the horizon: its estimates over SPANS, blended with each other and the prior."""
    found = [(*_sigma(times, logs, cells, noise, span), weight) for span, weight in SPANS]
    trusts = [weight * minutes / (minutes + PRIOR_MINUTES) for _, minutes, weight in found]
    logarithm = math.log(PRIOR_SIGMA)
    if sum(trusts):
        blend = sum(trust * math.log(sigma) for trust, (sigma, _, _) in zip(trusts, found, strict=True)) / sum(trusts)
        most = max(minutes for _, minutes, _ in found)
        logarithm += most / (most + PRIOR_MINUTES) * (blend - logarithm)
    return math.exp(2 * logarithm)


def _sigma(times: Ints, logs: Floats, cells: Floats, noise: float, span: int) -> tuple[float, float]:
    """Return the hour's deviation as the last `span` seconds have it, and how many minutes of data that rests on."""
    recent = cells[-span // CELL_S :]
    sizes = np.abs(recent[LAG:] - recent[:-LAG])
    products = sizes[STAGGER:] * sizes[:-STAGGER]
    known = int(np.count_nonzero(~np.isnan(products)))
    if known >= FEWEST_PAIRS:
        # A mean over a cell shortens the time between two by a third of it.
        variance = (_square(sizes) - 2 * noise / CELL_S) / (CELL_S * (LAG - 1 / 3))
        minutes = known * CELL_S / 60
    else:
        first = int(np.searchsorted(times, times[-1] - span))
        passed = float(times[-1] - times[first])
        variance = float(np.sum(np.diff(logs[first:]) ** 2)) / max(passed, 1.0)
        minutes = min(passed / 60, len(times) - first - 1.0)
    sigma = math.sqrt(max(variance, 0.0) * HORIZON_S)
    return min(max(sigma, LEAST_SIGMA), MOST_SIGMA), minutes


def _square(sizes: Floats) -> float:
    """Return the mean square of returns over overlapping minutes, given their sizes, without jumps.

    The threshold bipower variation: of two neighbours a jump is in one only, so it weighs little in their product, and
    less where sizes are cut off (Barndorff-Nielsen, Shephard 2004; Corsi, Pirino, Reno 2010). Neighbours are staggered
    against what noise has them share (Huang, Tauchen 2005), and overlap to use all data (Zhang, Mykland, Ait-Sahalia
    2005). Where prices mostly stand still, products say nothing, and the plain squares are taken.
    """
    moved = sizes[sizes > 0]
    if 2 * len(moved) < np.count_nonzero(~np.isnan(sizes)):
        return float(np.nanmean(sizes**2))
    cut = np.minimum(sizes, OUTLIER * float(np.median(moved)) * ROBUST)
    return math.pi / 2 * float(np.nanmean(cut[STAGGER:] * cut[:-STAGGER]))


class _View(NamedTuple):
    """Where the path is expected to go within the horizon, in log price from the level.

    :ivar end: at its end.
    :ivar path: on average over it.
    :ivar width: share of the walk's variance that the width of the interval goes by.
    """

    end: float
    path: float
    width: float


NOWHERE = _View(0.0, 0.0, 1.0)


class _Shapes(NamedTuple):
    """Mean-reverting alternatives to the random walk, and the spectra of their returns.

    :ivar kinds: (half-life in minutes, burst) of each.
    :ivar spectra: shape (len(kinds), frequencies), relative to that of the fair price's returns.
    :ivar logs: shape (len(kinds),), the sums of their logarithms.
    """

    kinds: tuple[tuple[float, float], ...]
    spectra: Floats
    logs: Floats


@lru_cache(maxsize=4)
def _shapes(minutes: int) -> _Shapes:
    cosines = np.cos(2 * np.pi * np.arange(1, (minutes - 1) // 2 + 1) / minutes)
    kinds = tuple((life, burst) for life in HALF_LIVES for burst in BURSTS)
    spectra = np.array([_spectrum(life, burst, cosines) for life, burst in kinds])
    return _Shapes(kinds, spectra, np.log(spectra).sum(axis=1))


def _spectrum(life: float, burst: float, cosines: Floats) -> Floats:
    stay = 0.5 ** (1 / life)
    found: Floats = 1 + _deviation(life, burst) * (1 - stay**2) * 2 * (1 - cosines) / (1 - 2 * stay * cosines + stay**2)
    return found


def _deviation(life: float, burst: float) -> float:
    """Return the variance of the deviation from the fair price, over that of the fair price's step of a minute."""
    return burst * life / (2 * math.log(2))


def _view(cells: Floats) -> _View:
    """Look for a part of the price that passes: a fair price that walks, and a deviation from it that dies away.

    The model of Poterba and Summers (1988). Its likelihood is Whittle's (1953), from the periodogram of the minutes'
    returns; the level it reverts to is the long-run forecast of its reduced form, an ARIMA(1, 1, 1) (Beveridge and
    Nelson 1981).
    """
    minutes = cells[::-LAG][::-1]
    missing = np.isnan(minutes)
    if len(minutes) < FEWEST_MINUTES or np.mean(missing) > MOST_MISSING:
        return NOWHERE
    known = np.maximum.accumulate(np.where(missing, 0, np.arange(len(minutes))))
    returns = np.diff(np.nan_to_num(minutes[known]))
    bound = OUTLIER * float(np.median(np.abs(returns))) * ROBUST
    if not bound:
        return NOWHERE
    # What is beyond is a jump, and stays.
    returns = np.clip(returns, -bound, bound)
    shapes = _shapes(len(returns))
    powers = np.abs(np.fft.rfft(returns)[1 : shapes.spectra.shape[1] + 1]) ** 2
    size = len(powers)
    scales = (1 / shapes.spectra) @ powers / size
    ratios = size * np.log(np.mean(powers) / scales) - shapes.logs
    best = int(np.argmax(ratios))
    evidence = float(ratios[best])
    if evidence < EVIDENT:
        return NOWHERE
    belief = 1 / (1 + math.exp(EVEN - evidence))
    view = _reverting(returns, *shapes.kinds[best])
    return _View(belief * view.end, belief * view.path, 1 + belief * (view.width - 1))


def _reverting(returns: Floats, life: float, burst: float) -> _View:
    stay = 0.5 ** (1 / life)
    deviation = _deviation(life, burst)
    # Autocovariances of the moving average of (1 - stay L) returns, and its invertible root.
    here = 1 + stay**2 + 2 * deviation * (1 - stay**2)
    next_ = -stay - deviation * (1 - stay**2)
    ratio = here / (2 * next_)
    root = -ratio - math.sqrt(ratio**2 - 1)
    quasi = returns[1:] - stay * returns[:-1]
    surprise = float(np.sum(quasi * root ** np.arange(len(quasi))[::-1]))
    to_fair = (stay * float(returns[-1]) - root * surprise) / (1 - stay)
    to_fair = min(max(to_fair, -MOST_SIGMA), MOST_SIGMA)
    gone = math.log(2) / life * HORIZON_S / 60
    end = to_fair * (1 - math.exp(-gone))
    path = to_fair * (1 - (1 - math.exp(-gone)) / gone)
    # A minute's variance is that of the fair price's step and of the deviation's.
    share = 1 / (1 + 2 * deviation * (1 - stay))
    return _View(end, path, share * (1 + burst * (1 + gone) ** (2 * REVERTING_WIDTH)))
