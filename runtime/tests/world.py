"""A market whose every whim a test decides, and an event loop whose time passes only when nothing is left to do."""

from __future__ import annotations

import asyncio
import functools
import math
import selectors
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor, Future
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from precog_runtime.errors import SourceError
from precog_runtime.runtime import Runtime, open_runtime
from precog_runtime.settings import Settings
from precog_runtime.types import Answer, Forecast, Request, Series

STUCK_S = 60.0
EPOCH = 1_795_474_800  # 2026-11-23T23:00:00Z: a mark, at which each test begins


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer, says by how much time is to jump."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: VirtualLoop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        loop = self.loop
        if loop is None or timeout is None or timeout <= 0:
            return super().select(timeout)
        if loop.away:
            found = super().select(STUCK_S)  # a thread's end wakes it
            if not found:
                raise AssertionError(f"a thread has not come back within {STUCK_S} s")
            return found
        found = super().select(0)
        if not found:
            loop.jumped += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time; what threads do is waited for in real time."""

    def __init__(self) -> None:
        self.jumped = 0.0
        self.away = 0
        selector = _Selector()
        super().__init__(selector)
        selector.loop = self

    def time(self) -> float:
        return self.jumped

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        self.away += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._back)
        return future

    def _back(self, _future: Any) -> None:
        self.away -= 1


class InlineExecutor(Executor):
    """Runs what it is given at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Stuck(InlineExecutor):
    """Nothing that it is given comes to an end, while `stuck`."""

    stuck = True

    def submit(self, fn, /, *args, **kwargs):
        return Future() if self.stuck else super().submit(fn, *args, **kwargs)


class Market:
    """A source of prices as a test wants it.

    :ivar delay_s: the newest seconds are not published yet.
    :ivar latency_s: of each fetch.
    :ivar failing: raise instead of answering.
    :ivar withheld: seconds whose prices come later.
    :ivar late_s: by how much later than the others each seventh second is published.
    :ivar longest_s: a fetch of more seconds fails.
    :ivar only: assets that have prices at all.
    """

    def __init__(self, now: Callable[[], float], price: Callable[[str, int], float] | None = None) -> None:
        self.now = now
        self.price = price or walk
        self.delay_s = 0
        self.latency_s = 0.0
        self.failing = False
        self.withheld: set[int] = set()
        self.late_s = 0
        self.longest_s = math.inf
        self.only: set[str] | None = None
        self.fetches = 0

    async def fetch(self, assets: Iterable[str], start: int, end: int, timeout_s: float) -> dict[str, Series]:
        self.fetches += 1
        published = min(end, int(self.now()) - self.delay_s)
        if self.latency_s:
            await asyncio.sleep(min(self.latency_s, timeout_s))
        if self.failing or self.latency_s > timeout_s or end - start >= self.longest_s:
            raise SourceError("the test wants no prices")
        late = {second for second in range(published - self.late_s + 1, published + 1) if second % 7 == 0}
        hidden = self.withheld | late
        times = np.array([s for s in range(start, published + 1) if s not in hidden], np.int64)
        having = [asset for asset in assets if self.only is None or asset in self.only]
        return {asset: Series(times, np.array([self.price(asset, int(s)) for s in times])) for asset in having}

    async def close(self) -> None:
        pass


LEVELS = {"btc": 80_000.0, "eth": 3_000.0, "tao_bittensor": 400.0}


def walk(asset: str, second: int) -> float:
    """A price that differs at each second and asset, and jumps nowhere."""
    return LEVELS[asset] * (1.0 + 0.002 * np.sin(second / 577.0) + 0.0001 * np.sin(second * 1.7))


class World:
    """A runtime on a market of the test's, in time of its own."""

    def __init__(self, runtime: Runtime, market: Market) -> None:
        self.runtime = runtime
        self.market = market

    @property
    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time()

    def request(self, timestamp: object = None, assets: Any = tuple(LEVELS), deadline_s: float = 10.0) -> Request:
        return Request(timestamp, assets, asyncio.get_running_loop().time() + deadline_s, "a test")

    async def ask(self, *args: Any, **kwargs: Any) -> Answer:
        return await self.runtime.engine.answer(self.request(*args, **kwargs))

    def errors(self, kind: str) -> float:
        return self.runtime.metrics.registry.get_sample_value("precog_errors_total", {"kind": kind}) or 0.0

    async def until(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Wait, in virtual time."""
        for _ in range(int(within_s / 0.1)):
            if condition():
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not so within {within_s} s of virtual time")


def quiet(**changes: Any) -> Settings:
    """Settings without work in the background but for a poll each five minutes; windows are short, to be quick.

    Prices are those up to the timestamp, so that a test can ask for any second; test_newest.py is about the newest.
    """
    return Settings(
        **{"mark_s": 0, "price_basis": "mark", "poll_s": 300.0, "window_s": 7200, "monitor_s": 0.0, **changes}
    )


@asynccontextmanager
async def world(settings: Settings | None = None, filled: bool = True, price: Any = None, executor: Any = None):
    loop = asyncio.get_running_loop()

    def now() -> float:
        return EPOCH + loop.time()

    market = Market(now, price)
    options = {"now": now, "clock": loop.time, "executor": executor or InlineExecutor()}
    async with open_runtime(settings or quiet(), market, **options) as runtime:
        made = World(runtime, market)
        if filled:
            await made.until(lambda: all(age <= 1 for age in runtime.engine.ages().values()))
        yield made


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run an async test in virtual time."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(test())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def virtual(test):
    """Run an async test in virtual time."""

    @functools.wraps(test)
    def wrapped(*args, **kwargs):
        run(lambda: test(*args, **kwargs))

    return wrapped


class Spy:
    """A model that notes what it is shown."""

    name, lookback_s, kind = "spy", 600, "numpy"

    def __init__(self, forecast=None):
        self.shown = []
        self._forecast = forecast

    def forecast(self, asset, timestamp, series):
        self.shown.append((asset, timestamp, series))
        if self._forecast is not None:
            return self._forecast()
        last = float(series.prices[-1])
        return Forecast(last, last * 0.99, last * 1.01)


def use(running, model):
    """Have a running world's forecasts made by a model."""
    running.runtime.engine._forecaster.model = model
    return model
