"""Keeps the market up to date and the next answers ready, so that a burst at a mark waits for nothing."""

from __future__ import annotations

import asyncio
import logging
from itertools import count
from typing import TYPE_CHECKING

from precog_runtime.errors import RateLimited, SourceError
from precog_runtime.types import NEWEST

if TYPE_CHECKING:
    from precog_runtime.engine import Engine
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings

logger = logging.getLogger(__name__)

# Around a mark the window is brought up to date each second. Validators look for a mark each 12 s, ask then, and wait
# for 20 s: the newest price counts until the last has its answer. Prices of the mark itself are all there after 10 s.
BEFORE_S, AFTER_S = 2, {"newest": 12 + 20, "mark": 10}
RETRY_S = 1.0  # between attempts at the first prices
LEAST_PAUSE_S = 0.1  # before another attempt, whatever the source says
RECENT_S = 120.0  # prices that a restart has kept are that old at the most: they are saved each minute
FIRST_S = 3600  # enough for a good forecast
LOOK_S = 30.0  # between looks for gaps; one costs a request where there are any
SHORT_LOOK_S, LONG_LOOK_S, LONG_LOOK = 300, 3600, 20  # seconds looked at, and at which look it is the longer ones


def next_due(now: float, settings: Settings) -> float:
    """Return when the window is to be brought up to date next, seconds since the epoch. Pure.

    Each second around a mark, shortly after the second began, as the source publishes whole seconds; each `poll_s`
    otherwise, but not so long that the next mark's beginning is missed.
    """
    if settings.mark_s:
        into = now % settings.mark_s
        if into < AFTER_S[settings.price_basis] or settings.mark_s - into <= BEFORE_S:
            return float(int(now) + 1)
        return min(now + settings.poll_s, now - into + settings.mark_s - BEFORE_S)
    return now + settings.poll_s


def to_prepare(now: float, settings: Settings) -> list[int]:
    """Return what requests may ask for about now: NEWEST, or the last mark, and one soon to come, where marks count."""
    if not settings.mark_s:
        return []
    if settings.price_basis == "newest":
        return [NEWEST]
    last = int(now // settings.mark_s) * settings.mark_s
    return [last, last + settings.mark_s] if last + settings.mark_s - now <= BEFORE_S + settings.poll_s else [last]


class Prefetcher:
    """Keeps the market up to date and the forecasts of the marks made. Its jobs run side by side.

    :ivar attempted: set when the first prices are there and the forecasts made from them, or the first attempt to get
        them has failed.
    """

    def __init__(self, settings: Settings, market: Market, engine: Engine, metrics: Metrics) -> None:
        self._settings = settings
        self._market = market
        self._engine = engine
        self._metrics = metrics
        self._begun = asyncio.Event()
        self._updated = asyncio.Event()
        self.attempted = asyncio.Event()

    async def run(self) -> None:
        """Bring the window up to date, again and again."""
        await self._first()
        self._begun.set()
        self._updated.set()
        while True:
            now = self._engine.now()
            await asyncio.sleep(next_due(now, self._settings) - now)
            while pause_s := await self._update():
                await asyncio.sleep(pause_s)

    async def prepare(self) -> None:
        """Make the forecasts that will be asked for, after each update or as soon as the model has done those before.

        A job of its own: prices must not wait for a model that is slow.
        """
        while True:
            await self._updated.wait()
            self._updated.clear()
            for mark in to_prepare(self._engine.now(), self._settings):
                await self._engine.prepare(mark)
            self.attempted.set()

    async def backfill(self) -> None:
        """Get the rest of the window, as far as the source has it: first what a good forecast needs."""
        await self._begun.wait()
        while True:
            try:
                for seconds in (FIRST_S, self._settings.window_s):
                    await self._market.fill(seconds, self._settings.window_s)
                    self._updated.set()
                return
            except SourceError as error:
                self._metrics.error(error.kind)
                await asyncio.sleep(self._settings.poll_s * 2)

    async def mend(self) -> None:
        """Look for prices that were published late: each LOOK_S for recent ones, now and then for those of an hour."""
        for look in count(1):
            await asyncio.sleep(LOOK_S)
            self._market.look_for_gaps(LONG_LOOK_S if look % LONG_LOOK == 0 else SHORT_LOOK_S)

    async def _first(self) -> None:
        """Get the first prices, however long the source takes to be there."""
        if max(self._engine.ages().values()) <= RECENT_S:
            # Kept over a restart: who asks now gets them, and is not held up by a source that is slow or rationed.
            self.attempted.set()
        while True:
            try:
                # The newest alone: a source that fails at long ranges must not keep them back.
                await self._market.refresh(int(self._engine.now()), self._settings.api_timeout_s * 2)
                return
            except SourceError as error:
                self._metrics.error(error.kind)
                logger.warning("no prices yet: %s", error)
                self.attempted.set()
                await asyncio.sleep(max(LEAST_PAUSE_S, getattr(error, "retry_after_s", RETRY_S)))

    async def _update(self) -> float:
        """Bring the window up to date; return the seconds until another attempt if the rate limit refused, else 0."""
        pause_s = 0.0
        try:
            await self._market.refresh(int(self._engine.now()), self._settings.api_timeout_s)
        except SourceError as error:
            self._metrics.error(error.kind)
            if isinstance(error, RateLimited):
                pause_s = max(LEAST_PAUSE_S, error.retry_after_s)
        self._updated.set()
        return pause_s
