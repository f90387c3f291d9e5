"""Keeps the market up to date and the next answers ready, so that a burst at a mark waits for nothing."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from precog_runtime.errors import RateLimited, SourceError

if TYPE_CHECKING:
    from precog_runtime.engine import Engine
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings

logger = logging.getLogger(__name__)

BEFORE_S, AFTER_S = 2, 10  # around a mark: the window is brought up to date each second
RETRY_S = 1.0  # between attempts at the first prices
RECENT_S = 120.0  # prices that a restart has kept are that old at the most: they are saved each minute
FIRST_S = 3600  # enough for a good forecast; what the model looks back on beyond it comes while requests are answered


def next_due(now: float, settings: Settings) -> float:
    """Return when the window is to be brought up to date next, seconds since the epoch. Pure.

    Each second around a mark, shortly after the second began, as the source publishes whole seconds; each `poll_s`
    otherwise, but not so long that the next mark's beginning is missed.
    """
    if settings.mark_s:
        into = now % settings.mark_s
        if into < AFTER_S or settings.mark_s - into <= BEFORE_S:
            return float(int(now) + 1)
        return min(now + settings.poll_s, now - into + settings.mark_s - BEFORE_S)
    return now + settings.poll_s


def to_prepare(now: float, settings: Settings) -> list[int]:
    """Return the marks that requests may name about now, seconds since the epoch: the last, and one soon to come."""
    if not settings.mark_s:
        return []
    last = int(now // settings.mark_s) * settings.mark_s
    return [last, last + settings.mark_s] if last + settings.mark_s - now <= BEFORE_S + settings.poll_s else [last]


class Prefetcher:
    """Fills the market at the start, then keeps it up to date and the forecasts of the marks made.

    :ivar attempted: set when the first prices are there, or the first attempt to get them has failed.
    """

    def __init__(self, settings: Settings, market: Market, engine: Engine, metrics: Metrics) -> None:
        self._settings = settings
        self._market = market
        self._engine = engine
        self._metrics = metrics
        self.attempted = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled."""
        await self._first()
        backfill = asyncio.ensure_future(self._backfill())
        try:
            while True:
                now = self._engine.now()
                await asyncio.sleep(next_due(now, self._settings) - now)
                await self._update()
        finally:
            backfill.cancel()

    async def _first(self) -> None:
        """Get the first prices, however long the source takes to be there."""
        if max(self._engine.ages().values()) <= RECENT_S:
            # Kept over a restart: who asks now gets them, and is not held up by a source that is slow or rationed.
            self.attempted.set()
        while True:
            try:
                await self._market.fill(FIRST_S, self._settings.api_timeout_s * 4)
                break
            except SourceError as error:
                self._metrics.error(error.kind)
                logger.warning("no prices yet: %s", error)
                self.attempted.set()
                await asyncio.sleep(getattr(error, "retry_after_s", RETRY_S))
        await self._update()
        self.attempted.set()

    async def _backfill(self) -> None:
        """Get the rest of the window, as far as the source has it."""
        while True:
            try:
                await self._market.fill(self._settings.window_s, self._settings.window_s)
                return
            except SourceError as error:
                self._metrics.error(error.kind)
                await asyncio.sleep(self._settings.poll_s * 2)

    async def _update(self) -> None:
        """Bring the window up to date, and make the forecasts that will be asked for."""
        try:
            await self._market.refresh(int(self._engine.now()), self._settings.api_timeout_s)
        except RateLimited as limited:
            self._metrics.error(limited.kind)
            await asyncio.sleep(limited.retry_after_s)
        except SourceError as error:
            self._metrics.error(error.kind)
        for mark in to_prepare(self._engine.now(), self._settings):
            await self._engine.prepare(mark)
