"""Seeded prices that look like a market's: a second has the same price in every process, whatever range is asked.

The log of an asset's price is a Brownian motion in a time of its own, built from coarse to fine, so that any second
costs the same. All random numbers come from Philox, a counter-based generator keyed by seed, regime, asset and block
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); the same numpy gives the same prices.

1. A span is 1024 hours. Where one begins, log price - log level is normal with deviation sigma * sqrt(1024 / 2): two
   neighbours differ as much as a random walk does after a span, and prices never leave their level for good.
2. The hours of a span are independent steps of deviation sigma * v(hour), plus the drift and the jump of the hour's
   process; a bridge spreads what is missing to the next span's beginning by variance.
3. The seconds of an hour are steps of deviation proportional to w(5 minutes), bridged to the hour's step.

v and w make volatility cluster: v is a product of log-normal factors with mean 1 that last 1, 4 and 32 hours, w one
that lasts 5 minutes (the cascade of Mandelbrot, Fisher and Calvet, "A multifractal model of asset returns", 1997).
Sigma is such that the mean range of an hour, sigma * sqrt(8 / pi) for Brownian motion (Feller 1951), is near the real
asset's. PROCESSES says how each regime differs. Assets are independent of one another.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from precog_runtime.errors import SettingError
from precog_runtime.types import Floats, Series

HOUR_S = 3600
SPAN_H = 1024
RANGE_OF_SIGMA = math.sqrt(8 / math.pi)  # mean range of Brownian motion over a time in which its deviation is 1
CLUSTERS_H = {1: 0.25, 4: 0.3, 32: 0.35}  # how many hours a factor of v lasts: deviation of its logarithm
BURST_S, BURST = 300, 0.3  # the same of w
LEG_H = 4  # a trend runs so many hours, and back in as many: a span holds whole pairs
REVERSION_S = 300  # half-life of a deviation from the fair price


@dataclass(frozen=True)
class Asset:
    """How an asset trades.

    :ivar level: USD that prices stay around.
    :ivar sigma: deviation of the log return of an hour.
    :ivar overstated: in the noisy process, the deviation of 1 s returns times 60, over sigma: more than 1.
    """

    level: float
    sigma: float
    overstated: float


@dataclass(frozen=True)
class Process:
    """How prices move within an hour. Deviations and drifts are in units of the asset's hourly sigma.

    :ivar diffusion: deviation of the hour's random walk.
    :ivar drift: of the hour, up or down by the leg of the trend.
    :ivar reversion: deviation of an Ornstein-Uhlenbeck process on top that is 0 at both ends of the hour.
    :ivar jumps: probability of one jump in the hour, at a random second (Merton 1976).
    :ivar jump: mean size of a jump; sizes are uniform from half to one and a half of it, either way.
    :ivar noise: whether each second has independent noise, as prices from several markets have (Roll 1984).
    """

    diffusion: float = 1.0
    drift: float = 0.0
    reversion: float = 0.0
    jumps: float = 0.0
    jump: float = 0.0
    noise: bool = False


# Measured on real data: hours with ranges of 0.65, 1.10 and 1.18 %, where 1 s volatility says 0.74, 2.13 and 2.17 %.
ASSETS = {
    "btc": Asset(67_000.0, 0.0065 / RANGE_OF_SIGMA, 0.74 / 0.65 * RANGE_OF_SIGMA),
    "eth": Asset(3_500.0, 0.0110 / RANGE_OF_SIGMA, 2.13 / 1.10 * RANGE_OF_SIGMA),
    "tao_bittensor": Asset(400.0, 0.0118 / RANGE_OF_SIGMA, 2.17 / 1.18 * RANGE_OF_SIGMA),
}
PROCESSES = {
    "calm": Process(diffusion=0.7),
    "volatile": Process(diffusion=1.8),
    "trend": Process(diffusion=0.75, drift=0.8),
    "reverting": Process(diffusion=0.4, reversion=0.34),
    "jumps": Process(diffusion=0.8, jumps=0.35, jump=1.5),
    "noisy": Process(noise=True),
}
# What a regime is made of: the share of hours of each process.
REGIMES: dict[str, Mapping[str, float]] = {
    **{name: {name: 1.0} for name in PROCESSES},
    "mixed": {"calm": 0.3, "volatile": 0.15, "trend": 0.15, "reverting": 0.15, "jumps": 0.1, "noisy": 0.15},
}


def prices(asset: str, start: int, end: int, seed: int, regime: str) -> Series:
    """Return the prices of an asset from second `start` to second `end`, both included, without gaps.

    :param asset: any name; one that is not in ASSETS gets a level and a volatility from its name.
    :param regime: one of REGIMES.
    :raises SettingError: there is no such regime.
    """
    check_regime(regime)
    times = np.arange(start, end + 1, dtype=np.int64)
    if not len(times):
        return Series(times, np.empty(0))
    hours = range(start // HOUR_S, end // HOUR_S + 1)
    whole = np.concatenate([_hour(asset, int(seed), regime, hour) for hour in hours])
    first = start - hours[0] * HOUR_S
    return Series(times, whole[first : first + len(times)])


def check_regime(regime: str) -> None:
    """Check that a regime exists.

    :raises SettingError: it doesn't; says which ones do.
    """
    if regime not in REGIMES:
        raise SettingError(f"regime is {regime!r}: there is no such regime. Choose one of {', '.join(REGIMES)}")


def lots(seed: int, asset: str, start: int, end: int) -> Floats:
    """Return a random number in [0, 1) for each second from `start` to `end`, both included.

    The same second has the same number whatever range is asked: it decides which prices come late.
    """
    hours = range(start // HOUR_S, end // HOUR_S + 1)
    whole = np.concatenate(
        [np.empty(0), *(_generator("lots", int(seed), asset, hour).random(HOUR_S) for hour in hours)]
    )
    first = start % HOUR_S
    return whole[first : first + max(0, end - start + 1)]


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@lru_cache(maxsize=256)
def _asset(name: str) -> Asset:
    if name in ASSETS:
        return ASSETS[name]
    size, spread, noise = _generator("asset", name).random(3)
    return Asset(10 ** (6 * size - 2), 0.004 + 0.006 * spread, 1.5 + 2 * noise)


@dataclass(frozen=True)
class _Span:
    """The hours of a span, arrays of shape (1024,); in units of log price.

    :ivar opens: at the beginning of each hour.
    :ivar walks: by how much the random walk goes in the hour, the bridge's share included.
    :ivar drifts: by how much the trend goes.
    :ivar jumps: by how much it jumps, mostly 0.
    :ivar sigmas: deviation of the random walk.
    :ivar processes: which process it follows.
    """

    opens: Floats
    walks: Floats
    drifts: Floats
    jumps: Floats
    sigmas: Floats
    processes: tuple[Process, ...]


# A span is 72 KB, an hour 29 KB: the caches hold a day of three assets and stay below 5 MB.
@lru_cache(maxsize=16)
def _span(asset: str, seed: int, regime: str, span: int) -> _Span:
    draw = _generator("span", seed, regime, asset, span)
    names = list(REGIMES[regime])
    shares = np.cumsum([REGIMES[regime][name] for name in names])
    kinds = np.minimum(np.searchsorted(shares, draw.random(SPAN_H), side="right"), len(names) - 1)
    processes = tuple(PROCESSES[names[kind]] for kind in kinds)
    units = _asset(asset).sigma * _volatility(draw)
    sigmas = units * np.array([process.diffusion for process in processes])
    legs = np.repeat(draw.choice([-1.0, 1.0], SPAN_H // LEG_H // 2), 2) * np.tile([1.0, -1.0], SPAN_H // LEG_H // 2)
    drifts = units * np.array([process.drift for process in processes]) * np.repeat(legs, LEG_H)
    sizes = draw.choice([-1.0, 1.0], SPAN_H) * draw.uniform(0.5, 1.5, SPAN_H)
    jumping = draw.random(SPAN_H) < np.array([process.jumps for process in processes])
    jumps = np.where(jumping, units * sizes * np.array([process.jump for process in processes]), 0.0)
    walks = sigmas * draw.standard_normal(SPAN_H)
    anchor, following = _anchor(asset, seed, regime, span), _anchor(asset, seed, regime, span + 1)
    missing = following - anchor - float(np.sum(walks + drifts + jumps))
    walks += missing * sigmas**2 / np.sum(sigmas**2)
    opens = anchor + np.concatenate([[0.0], np.cumsum(walks + drifts + jumps)[:-1]])
    return _Span(opens, walks, drifts, jumps, sigmas, processes)


def _anchor(asset: str, seed: int, regime: str, span: int) -> float:
    about = _asset(asset)
    spread = about.sigma * math.sqrt(SPAN_H / 2)
    return math.log(about.level) + spread * float(_generator("anchor", seed, regime, asset, span).standard_normal())


def _volatility(draw: np.random.Generator) -> Floats:
    logs = np.zeros(SPAN_H)
    for hours, deviation in CLUSTERS_H.items():
        logs += np.repeat(deviation * draw.standard_normal(SPAN_H // hours) - deviation**2 / 2, hours)
    return np.exp(logs)


@lru_cache(maxsize=128)
def _hour(asset: str, seed: int, regime: str, hour: int) -> Floats:
    span, at = divmod(hour, SPAN_H)
    coarse = _span(asset, seed, regime, span)
    process, about = coarse.processes[at], _asset(asset)
    draw = _generator("hour", seed, regime, asset, hour)
    elapsed = np.arange(HOUR_S) / HOUR_S
    logs = coarse.opens[at] + _bridge(draw, coarse.walks[at], coarse.sigmas[at]) + coarse.drifts[at] * elapsed
    logs[int(draw.integers(1, HOUR_S)) :] += coarse.jumps[at]
    if process.reversion:
        logs += process.reversion * coarse.sigmas[at] / process.diffusion * _reverting(draw)
    if process.noise:
        second = coarse.sigmas[at] / math.sqrt(HOUR_S)
        logs += second * math.sqrt((about.overstated**2 - 1) / 2) * draw.standard_normal(HOUR_S)
    digits = max(2, 6 - math.floor(math.log10(about.level)))
    found: Floats = np.round(np.exp(logs), digits)
    return found


def _bridge(draw: np.random.Generator, total: float, sigma: float) -> Floats:
    """Return a random walk of an hour from 0 that is at `total` when the next hour begins."""
    factors = np.repeat(np.exp(BURST * draw.standard_normal(HOUR_S // BURST_S)), BURST_S)
    variances = factors**2 / np.sum(factors**2)
    walk = np.cumsum(sigma * np.sqrt(variances) * draw.standard_normal(HOUR_S))
    walk += np.cumsum(variances) * (total - walk[-1])
    return np.concatenate([[0.0], walk[:-1]])


def _reverting(draw: np.random.Generator) -> Floats:
    """Return an Ornstein-Uhlenbeck process of deviation 1 that is 0 when the hour begins, and when the next one does.

    It is a Brownian motion in exponential time, scaled down (Doob 1942), less its bridge to 0.
    """
    rate = math.log(2) / REVERSION_S
    growth = np.exp(rate * np.arange(HOUR_S + 1))
    steps = math.sqrt(1 - math.exp(-2 * rate)) * draw.standard_normal(HOUR_S + 1)
    steps[0] = 0.0
    free = np.cumsum(steps * growth) / growth
    pull = np.sinh(rate * np.arange(HOUR_S + 1)) / math.sinh(rate * HOUR_S)
    bridged: Floats = free - free[-1] * pull
    return bridged[:-1]
