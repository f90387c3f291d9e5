"""Puts the parts together: what each front end opens, uses and closes."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from precog_runtime.cache import PredictionCache
from precog_runtime.engine import Engine
from precog_runtime.forecast import model as models
from precog_runtime.forecast.baseline import UpstreamRule
from precog_runtime.forecast.default import DefaultModel
from precog_runtime.forecaster import Forecaster
from precog_runtime.log import PredictionLog
from precog_runtime.market.market import Market
from precog_runtime.market.snapshot import Snapshots
from precog_runtime.metrics import Metrics
from precog_runtime.monitor import Monitor, thresholds
from precog_runtime.prefetch import Prefetcher
from precog_runtime.store import folder_trouble
from precog_runtime.wallclock import WallClock
from precog_runtime.workers import WorkerPool, executors

if TYPE_CHECKING:
    from precog_runtime.settings import Settings
    from precog_runtime.types import PriceSource

logger = logging.getLogger(__name__)

HOUSEKEEPING_S = 60.0


@dataclass(frozen=True)
class Runtime:
    """A running path from request to answer.

    :ivar attempted: set when the first prices are there and the forecasts made from them, or the first attempt to get
        them has failed.
    :ivar wall: the time that timestamps and ages are judged by.
    """

    settings: Settings
    engine: Engine
    market: Market
    metrics: Metrics
    log: PredictionLog
    monitor: Monitor | None
    attempted: asyncio.Event
    wall: WallClock

    def trouble(self) -> str:
        """Return why no requests should be sent here though there are prices, "" if nothing speaks against it."""
        return self.wall.trouble()

    def exposition(self) -> bytes:
        """Return all metrics as Prometheus scrapes them, with the prices' ages of now."""
        for asset, age in self.engine.ages().items():
            self.metrics.age(asset, age)
        return self.metrics.text()


@asynccontextmanager
async def open_runtime(
    settings: Settings,
    source: PriceSource | None = None,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
    executor: Executor | None = None,
) -> AsyncIterator[Runtime]:
    """Start a runtime: the market is being filled when this yields, and answers come as soon as there are prices.

    A state's folder that can't be used is told, and answers come all the same.

    :param source: where prices come from; without one, Coin Metrics' API at `settings.api_url`.
    :param now: wall clock, seconds since the epoch; corrected by what the source's answers say.
    :param clock: the clock of deadlines, seconds.
    :param executor: where models run, and the caller's to shut down; without one, what the settings say.
    :raises ModelError: the model can't be loaded.
    :raises SettingError: the executor can't be made.
    """
    metrics = Metrics(settings.assets)
    _look_at_state(settings, metrics)
    model = models.load(settings.model)
    wall = WallClock(metrics, now, clock)
    async with AsyncExitStack() as stack:
        source = source or _coin_metrics(settings, metrics, wall)
        stack.push_async_callback(source.close)
        market = Market(source, settings, metrics, wall)
        stack.push_async_callback(market.close)
        cache = PredictionCache(settings, metrics, clock)
        log = PredictionLog(settings, metrics, wall)
        stack.callback(log.close)
        executor = executor or stack.enter_context(executors.made(settings.executor))
        pool = WorkerPool(settings.min_workers, settings.max_workers, metrics, executor)
        stack.callback(pool.close)
        # Upstream's rule is arithmetic that no price fails at.
        fallbacks = (DefaultModel(), UpstreamRule())
        forecaster = Forecaster(settings, market, cache, pool, metrics, model, fallbacks, clock)
        engine = Engine(settings, market, forecaster, log, metrics, wall, clock)
        monitor = Monitor(metrics, settings.monitor_s, thresholds=thresholds(settings)) if settings.monitor_s else None
        snapshots = Snapshots(market, settings.state_dir, metrics) if settings.state_dir else None
        if snapshots:
            snapshots.restore(now())
        prefetcher = Prefetcher(settings, market, engine, metrics)
        jobs: dict[str, Callable[[], Awaitable[None]]] = {
            "prefetch": prefetcher.run,
            "preparation": prefetcher.prepare,
            "backfill": prefetcher.backfill,
            "mending": prefetcher.mend,
            "housekeeping": lambda: _keep_house(market, cache, log),
            **({"snapshots": snapshots.run} if snapshots else {}),
            **({"monitor": monitor.run} if monitor else {}),
        }
        for name, job in jobs.items():
            stack.push_async_callback(_stopped, asyncio.ensure_future(_kept_running(name, job, metrics)))
        yield Runtime(settings, engine, market, metrics, log, monitor, prefetcher.attempted, wall)


def spare_collections() -> None:
    """Leave out what is loaded by now whenever Python looks for garbage; call it once a process is up.

    A look at everything stops all threads: for 50 to 80 ms in a process with bittensor, every few bursts. PyPy's
    collector works in small steps, and has no such function.
    """
    if sys.implementation.name == "cpython":
        gc.collect()
        gc.freeze()


def _look_at_state(settings: Settings, metrics: Metrics) -> None:
    """Tell where nothing can be kept: an operator wants a miner that answers, rather than none for want of a log."""
    trouble = folder_trouble(settings.state_dir) if settings.state_dir else ""
    if trouble:
        metrics.error("state")
        told = "Log and prices are in memory only until it can be used. Give a folder that can be written"
        logger.error("state_dir is %r: %s. %s", settings.state_dir, trouble, told)


def _coin_metrics(settings: Settings, metrics: Metrics, wall: WallClock) -> PriceSource:
    from precog_runtime.market.coinmetrics import CoinMetrics

    return CoinMetrics(settings, metrics, wall.heard)


async def _keep_house(market: Market, cache: PredictionCache, log: PredictionLog) -> None:
    """Clean up, and write down what came true of earlier forecasts."""
    while True:
        await asyncio.sleep(HOUSEKEEPING_S)
        cache.clean()
        await log.realise(market.price, market.series)
        log.prune()
        await asyncio.get_running_loop().run_in_executor(None, log.export)


async def _kept_running(name: str, job: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Run a job to its end, if it has one; a bug in it is logged and counted, and must not stop the answers."""
    while True:
        try:
            return await job()
        except Exception:
            metrics.error("internal")
            logger.exception("%s failed, and is begun again", name)
        await asyncio.sleep(1.0)


async def _stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
