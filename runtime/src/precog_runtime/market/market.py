"""The windows of all assets, filled at the start and kept up to date by one fetch at a time for all who wait."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from precog_runtime.errors import RateLimited, SourceError
from precog_runtime.market.budget import LONGEST_RESET_S, background, urgent
from precog_runtime.market.window import Window, ordered
from precog_runtime.types import NEWEST, Series

if TYPE_CHECKING:
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings
    from precog_runtime.types import Floats, Ints, PriceSource

logger = logging.getLogger(__name__)

OVERLAP_S = 10  # seconds fetched again, so that late points and corrections are seen
CATCH_UP_S = 300  # a refresh reaches back no further; what lies before is fetched in the background
CHUNK_ROWS = 10_000  # of a fill's request: one page of the API
PAUSE_S = 0.5  # after a fetch that did not bring all that was wanted, at least
LAGGING_S = OVERLAP_S  # an asset that is further behind the others is not waited for
JUMP = 1.5  # a price that differs from the last good one by more than this factor is doubted,
AGREEING = 5  # until so many in a row agree with one another


class Market:
    """What is known of the prices of `settings.assets`. Belongs to one event loop.

    :ivar windows: the prices by asset.
    :ivar changes: how often any price changed; what was computed before is up to date while this stays the same.
    :ivar absent: assets that the latest fetch did not bring, though it brought others: nobody waits for them.
    """

    def __init__(
        self, source: PriceSource, settings: Settings, metrics: Metrics, now: Callable[[], float] = time.time
    ) -> None:
        self.windows = {asset: Window(settings.window_s) for asset in settings.assets}
        self.changes = 0
        self.absent: frozenset[str] = frozenset()
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._flight: asyncio.Task[int] | None = None
        self._quiet_until = -math.inf
        self._limited_until = -math.inf
        self._pause_s = max(PAUSE_S, settings.api_period_s / settings.api_requests)
        self._filled_from: int | None = None
        self._holes: list[tuple[int, int]] = []
        self._mending: asyncio.Task[None] | None = None
        self._doubted: dict[str, frozenset[int]] = {}
        self._unreadable = False

    def series(self, asset: str, start: int, end: int) -> Series:
        """Return a copy of an asset's prices with start <= time <= end, as far as they are in the window."""
        return self.windows[asset].series(start, end)

    def version(self, asset: str, start: int, end: int) -> int:
        """Return a number that stands for the prices in that range: see `Window.version`."""
        return self.windows[asset].version(start, end)

    def price(self, asset: str, second: int) -> float | None:
        """Return the price of a second in USD, None if there is none."""
        return self.windows[asset].price(second)

    def last(self, asset: str, second: int) -> int | None:
        """Return the newest second up to `second` that has a price, None if there is none."""
        return self.windows[asset].last(second)

    def newest(self, asset: str, second: int) -> int | None:
        """Return the newest second with a price that a forecast for `second` is made from, None if there is none."""
        return self.windows[asset].newest if second == NEWEST else self.last(asset, second)

    def age(self, asset: str, second: int) -> float:
        """Return how many seconds older than `second` the newest price up to it is; infinity if there is none."""
        last = self.last(asset, second)
        return math.inf if last is None else float(second - last)

    async def refresh(self, until: int, timeout_s: float) -> None:
        """Bring all assets up to `until`, seconds since the epoch, as far as prices are published.

        All who wait share one fetch, which goes on when one of them is cancelled or gives up. Returns at once where
        there is nothing to wait for: the prices are there, or a moment ago they were not published yet.

        :raises SourceError: the fetch failed, or did not end within `timeout_s` seconds.
        :raises RateLimited: the source allows no request now.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        until = min(until, int(self._now() + self._settings.max_future_s))
        while not self._reached(until):
            if self._flight is None:
                if loop.time() < self._quiet_until:
                    return
                # A burst meets the limit once, not once for each request of it.
                if (left_s := self._limited_until - loop.time()) > 0:
                    raise RateLimited(f"the rate limit allows no request for {left_s:.1f} s", left_s)
                self._flight = loop.create_task(self._update(max(until, int(self._now()))))
                self._flight.add_done_callback(self._landed)
            flight = self._flight
            await asyncio.wait({flight}, timeout=max(0.0, deadline - loop.time()))
            if not flight.done():
                raise SourceError(f"no newer prices within {timeout_s:g} s")
            if flight.cancelled():
                raise SourceError("the market is being closed")
            error = flight.exception()
            if error is not None:
                # Without the traceback, which each who waits would make longer.
                raise error.with_traceback(None)
            # A fetch that was under way already may end a moment earlier than wanted: as fresh as is asked for.
            if flight.result() >= until - self._settings.fresh_s:
                return

    async def fill(self, seconds: int, timeout_s: float) -> None:
        """Fetch the last `seconds` of all assets, the newest first, a page at a time, leaving budget for `refresh`.

        What an earlier call has fetched is not fetched again, also if that call failed half-way.

        :raises SourceError: not all could be fetched within `timeout_s` seconds; what came is kept.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        now = int(self._now())
        first = now - min(seconds, self._settings.window_s) + 1
        last = now if self._filled_from is None else self._filled_from - 1
        for start, end in self._chunks(first, last):
            await self._load(start, end, deadline)
            self._filled_from = start

    async def close(self) -> None:
        """Stop what runs in the background; safe to call twice. The source stays open."""
        running = [task for task in (self._flight, self._mending) if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def look_for_gaps(self, seconds: int) -> None:
        """Have fetched again, in the background, what is lacking between prices of the last `seconds`.

        Prices that are published more than `OVERLAP_S` late come no other way.
        """
        first = int(self._now()) - seconds
        series = [self.series(asset, first, int(self._now())) for asset in self.windows if asset not in self.absent]
        found = gap([each.times for each in series])
        if found is not None and not self._holes:
            self._holes.append(found)
            self._begin_mending()

    def _reached(self, until: int) -> bool:
        waited_for = (window.newest for asset, window in self.windows.items() if asset not in self.absent)
        return all(newest is not None and newest >= until for newest in waited_for)

    def _landed(self, flight: asyncio.Task[int]) -> None:
        self._flight = None
        if not flight.cancelled():
            flight.exception()  # seen, even if all who waited have given up

    async def _update(self, end: int) -> int:
        """Fetch what is new up to `end`, for all assets in one request; return `end`. Runs as a task of its own."""
        urgent.set(True)
        newest = {asset: window.newest for asset, window in self.windows.items()}
        known = [second for second in newest.values() if second is not None]
        reach = min(CATCH_UP_S, CHUNK_ROWS // len(self.windows))
        start = max(min(known, default=0) - OVERLAP_S, end - reach + 1)
        # Twice the limit of one request, so that one that hangs leaves time for another.
        try:
            found = await self._fetch(start, end, self._settings.api_timeout_s * 2)
        except RateLimited as limited:
            self._limited_until = asyncio.get_running_loop().time() + min(limited.retry_after_s, LONGEST_RESET_S)
            raise
        self._take(found)
        self.absent = lagging({asset: window.newest for asset, window in self.windows.items()})
        # Of the assets that came back from further than that, or that are here for the first time.
        lacking = [
            self._filled_from if second is None else second + 1
            for asset, second in newest.items()
            if self.windows[asset].newest != second
        ]
        first = min((each for each in lacking if each is not None), default=start)
        if first < start:
            self._holes.append((first, start - 1))
        self._begin_mending()
        if not self._reached(end):
            self._quiet_until = asyncio.get_running_loop().time() + self._pause_s
        return end

    def _begin_mending(self) -> None:
        if self._holes and (self._mending is None or self._mending.done()):
            self._mending = asyncio.get_running_loop().create_task(self._mend())

    async def _mend(self) -> None:
        """Fetch what an outage has left out; where that fails, the next refresh that succeeds begins it anew."""
        urgent.set(False)  # it may have been begun by an update, which is
        while self._holes:
            first, last = self._holes.pop()
            try:
                for start, end in self._chunks(max(first, int(self._now()) - self._settings.window_s), last):
                    await self._load(start, end, asyncio.get_running_loop().time() + self._load_s())
                    last = start - 1
            except SourceError as error:
                self._metrics.error(error.kind)
                logger.warning("prices of %d s of an outage are still lacking: %s", last - first + 1, error)
                self._holes.append((first, last))
                return

    def _chunks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of one page each, the newest first."""
        size = max(1, CHUNK_ROWS // len(self.windows))
        for end in range(last, first - 1, -size):
            yield max(first, end - size + 1), end

    def _load_s(self) -> float:
        """How long one page may take: its turn, and a few attempts."""
        return self._settings.api_period_s * 2 + self._settings.api_timeout_s * 3

    async def _load(self, start: int, end: int, deadline: float) -> None:
        """Fetch one range in the background, waiting for the rate limit where that ends before the deadline."""
        loop = asyncio.get_running_loop()
        token = background.set(True)
        try:
            while True:
                try:
                    left_s = deadline - loop.time()
                    found = await self._fetch(start, end, min(left_s, self._load_s()))
                    break
                except RateLimited as limited:
                    if loop.time() + limited.retry_after_s >= deadline:
                        raise
                    await asyncio.sleep(limited.retry_after_s)
        finally:
            background.reset(token)
        self._take(found)

    async def _fetch(self, start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        """Ask the source; what an operator's own source raises, or returns instead of prices, is a `SourceError`."""
        try:
            return self._usable(await self._source.fetch(list(self.windows), start, end, timeout_s), start, end)
        except SourceError:
            raise
        except Exception as error:
            raise SourceError(f"the source failed: {type(error).__name__}: {error}") from error

    def _usable(self, found: Mapping[str, Series], start: int, end: int) -> dict[str, Series]:
        """Return the rows of that range, by asset; an asset whose prices can't be read is left out, counted and logged.

        :raises SourceError: none can be read.
        """
        usable: dict[str, Series] = {}
        wrong = []
        for asset in self.windows:
            try:
                if asset in found:
                    usable[asset] = _clipped(found[asset], start, end)
            except Exception as error:  # by what the source returned, numpy raises half a dozen kinds
                wrong.append(f"{asset} ({type(error).__name__}: {error})")
        if not wrong:
            return usable
        told = f"the source returned no prices that can be read for {', '.join(wrong)}"
        if not usable:
            raise SourceError(told)
        self._metrics.error("garbage_page")
        if not self._unreadable:
            logger.warning("%s. Not logged again", told)
        self._unreadable = True
        return usable

    def _take(self, found: Mapping[str, Series]) -> None:
        """Put what came into the windows, but for what can't be believed."""
        for asset, window in self.windows.items():
            series = found.get(asset)
            if series is None or not len(series):
                continue
            first, last = int(series.times[0]), int(series.times[-1])
            good = believed(series, _price(window, window.last(first - 1)), _price(window, window.first(last + 1)))
            doubted = frozenset(series.times[~good].tolist())
            for _ in doubted - self._doubted.get(asset, frozenset()):
                self._metrics.error("garbage")
            self._doubted[asset] = doubted
            self.changes += window.extend(Series(series.times[good], series.prices[good]))


def lagging(newest: Mapping[str, int | None]) -> frozenset[str]:
    """Return the assets whose newest price is not there, or far older than that of another."""
    latest = max((second for second in newest.values() if second is not None), default=None)
    if latest is None:
        return frozenset()
    return frozenset(asset for asset, second in newest.items() if second is None or second < latest - LAGGING_S)


def gap(assets: Iterable[Ints]) -> tuple[int, int] | None:
    """Return the first and the last second that an asset lacks between its prices; None if none lacks any.

    What lies within `OVERLAP_S` of its newest price comes with the next refresh.

    :param assets: the seconds of each asset's prices, shape (n,), increasing.
    """
    found = []
    for times in assets:
        after = np.flatnonzero(np.diff(times) > 1)
        after = after[times[after] < times[-1] - OVERLAP_S] if len(times) else after
        if len(after):
            found.append((int(times[after[0]]) + 1, int(times[after[-1] + 1]) - 1))
    return (min(first for first, _ in found), max(last for _, last in found)) if found else None


def believed(series: Series, before: float | None, after: float | None) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell which prices are believed: a lone jump by more than `JUMP` is not, one that `AGREEING` in a row show is.

    :param before: the good price before the series, USD, if known.
    :param after: the one after it, which serves where there is none before: history is then read backwards.
    :return: shape (n,), bool.
    """
    backwards = before is None and after is not None
    prices: Floats = series.prices[::-1] if backwards else series.prices
    good = after if backwards else before
    if good is None:
        good = float(np.median(prices[: 2 * AGREEING - 1]))
    steps = np.diff(np.log(np.concatenate(([good], prices))))
    if np.abs(steps).max() <= math.log(JUMP):
        return np.ones(len(prices), np.bool_)
    belief = _believed_one_by_one(prices.tolist(), good)
    return belief[::-1] if backwards else belief


def _believed_one_by_one(prices: list[float], good: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    belief = np.ones(len(prices), np.bool_)
    held: list[int] = []
    for at, price in enumerate(prices):
        if _near(price, good):
            good, held = price, []
            continue
        if held and not _near(price, prices[held[-1]]):
            held = []
        held.append(at)
        belief[at] = False
        if len(held) == AGREEING:
            belief[held] = True
            good, held = price, []
    return belief


def _near(one: float, other: float) -> bool:
    return one <= other * JUMP and other <= one * JUMP


def _clipped(series: Series, start: int, end: int) -> Series:
    """Return the rows that a source may give for that range, in order: it may be an operator's own.

    :raises ValueError: times and prices are not two arrays of one length; or what numpy raises of what is no number.
    """
    times: Ints = np.asarray(series.times, np.int64)
    prices: Floats = np.asarray(series.prices, np.float64)
    if times.ndim != 1 or times.shape != prices.shape:
        raise ValueError(f"times have the shape {times.shape}, prices {prices.shape}")
    usable = (times >= start) & (times <= end) & np.isfinite(prices) & (prices > 0)
    return ordered(times, prices) if usable.all() else ordered(times[usable], prices[usable])


def _price(window: Window, second: int | None) -> float | None:
    return None if second is None else window.price(second)
