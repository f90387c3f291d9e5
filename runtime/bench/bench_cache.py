"""Whether a cache whose size is steered by its misses does better than a plain one with a time to live: side by side.

    bin/bench-runtime cache [--hours 2] [--rounds 5] [--price-basis mark]

What the cache is asked for is recorded on the real path (prefetcher, market, engine, forecaster) over simulated prices,
in time that passes only when nothing is left to do. Streams: `validators`, 64 requests within 12 s of each mark; `and
callers`, besides them one that asks for the present each 5 s and one that walks through the seconds of the last hour;
`no marks`, the same callers where each second has forecasts of its own (mark_s 0). The streams are then replayed
through both caches, by turns. A forecast that is missing is put. Times are those of one call on average, in the best
round.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from ghost_cache import GhostCache

from precog_runtime.cache import Key, PredictionCache
from precog_runtime.metrics import Metrics
from precog_runtime.runtime import open_runtime
from precog_runtime.settings import Settings
from precog_runtime.types import Forecast, Request

TESTS = Path(__file__).resolve().parents[1] / "tests"  # the event loop in virtual time, and a source without a socket
MARK_S, LATEST_S, VALIDATORS = 300, 12.0, 64
FORECAST = Forecast(2.0, 1.0, 3.0)
STREAMS = {"validators": (300, False), "and callers": (300, True), "no marks": (0, True)}


class Lookup(NamedTuple):
    """One lookup: when (seconds), and the key."""

    moment: float
    key: Key


def recorded(hours: float, price_basis: str, mark_s: int, callers: bool) -> list[Lookup]:
    """Return the lookups that a runtime makes in so many hours."""
    sys.path.append(str(TESTS))
    world = import_module("world")
    epoch = world.EPOCH
    found: list[Lookup] = []
    chance = random.Random(7)
    settings = Settings(price_basis=price_basis, mark_s=mark_s, monitor_s=0.0, window_s=8 * 3600, model="upstream")

    async def live() -> None:
        loop = asyncio.get_running_loop()

        def now() -> float:
            return epoch + loop.time()

        source = import_module("simulated").SimulatedMarket(1, "mixed", now)
        async with open_runtime(settings, source, now, loop.time, world.InlineExecutor()) as runtime:
            cache: Any = runtime.engine._forecaster._cache
            get = cache.get

            def noted(key: Key) -> Forecast | None:
                found.append(Lookup(loop.time(), key))
                return get(key)

            cache.get = noted

            async def ask(after_s: float, timestamp: float) -> None:
                await asyncio.sleep(max(0.0, after_s - loop.time()))
                await runtime.engine.answer(Request(int(timestamp), settings.assets, loop.time() + 10))

            asked = []
            for mark in range(MARK_S, int(hours * 3600), MARK_S):
                asked += [ask(mark + chance.uniform(0, LATEST_S), epoch + mark) for _ in range(VALIDATORS)]
            for second in range(600, int(hours * 3600), 5) if callers else ():
                asked += [ask(second, epoch + second)]
                asked += [ask(second, epoch + second - (second // 5 * 7) % 3600)]
            await asyncio.gather(*asked)

    world.run(live)
    return found


class Replayed(NamedTuple):
    """What a cache did with a stream.

    :ivar peak: most bytes used.
    :ivar evictions: forecasts dropped for lack of room.
    :ivar get_us: mean time of a get.
    """

    hits: int
    peak: int
    evictions: float
    get_us: float
    put_us: float


def replayed(lookups: Sequence[Lookup], cache_mb: float, kind: Callable[..., Any]) -> Replayed:
    """Send a stream through a new cache."""
    moment = 0.0
    metrics = Metrics()
    cache = kind(Settings(cache_mb=cache_mb), metrics, lambda: moment)
    hits = peak = puts = 0
    gets_s = puts_s = cleaned = 0.0
    for moment, key in lookups:
        if moment - cleaned >= 60:
            cache.clean()
            cleaned = moment
        began = time.perf_counter()
        there = cache.get(key) is not None
        gets_s += time.perf_counter() - began
        hits += there
        if not there:
            began = time.perf_counter()
            cache.put(key, FORECAST)
            puts_s += time.perf_counter() - began
            puts += 1
            peak = max(peak, cache.nbytes)
    evictions = metrics.registry.get_sample_value("precog_cache_evictions_total") or 0.0
    return Replayed(hits, peak, evictions, gets_s / len(lookups) * 1e6, puts_s / max(1, puts) * 1e6)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0, help="of simulated time (2)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each cache (5)")
    parser.add_argument("--price-basis", default=Settings().price_basis, help="the setting price_basis (%(default)s)")
    arguments = parser.parse_args()
    caches = {"time to live": PredictionCache, "steered size": GhostCache}
    titles = "".join(f"{each:>9}" for each in ("lookups", "hit %", "evicted", "peak kB", "get us", "put us"))
    print(f"{'stream':14}{'cache_mb':>9}  {'cache':14}{titles}")
    for name, (mark_s, callers) in STREAMS.items():
        lookups = recorded(arguments.hours, arguments.price_basis, mark_s, callers)
        for cache_mb in (Settings().cache_mb, 1.0):
            rounds = [[replayed(lookups, cache_mb, kind) for kind in caches.values()] for _ in range(arguments.rounds)]
            for label, runs in zip(caches, zip(*rounds, strict=True), strict=True):
                get_us, put_us = (min(getattr(run, each) for run in runs) for each in ("get_us", "put_us"))
                share = 100 * runs[0].hits / len(lookups)
                print(
                    f"{name:14}{cache_mb:9g}  {label:14}{len(lookups):9}{share:9.2f}{runs[0].evictions:9.0f}"
                    f"{runs[0].peak / 1000:9.0f}{get_us:9.2f}{put_us:9.2f}"
                )


if __name__ == "__main__":
    main()
