"""The simulator's prices without a socket between: the second real source, for tests, demos and backtests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precog_runtime.types import Series

THREAD_ROWS = 2000  # more than that is made in a thread, so that the event loop goes on


class SimulatedMarket:
    """A source of made prices.

    :param seed: the same seed gives the same prices.
    :param regime: one of the simulator's.
    :param now: wall clock, seconds since the epoch; later prices are not published yet.
    :param publish_delay_s: how many seconds late prices are published.
    """

    def __init__(
        self, seed: int, regime: str, now: Callable[[], float] = time.time, publish_delay_s: float = 0.0
    ) -> None:
        self._seed = seed
        self._regime = regime
        self._now = now
        self._publish_delay_s = publish_delay_s

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        """Return the prices from `start` to `end` that are published; never fails."""
        published = min(end, int(self._now() - self._publish_delay_s))
        if published < start:
            return {}
        if len(assets) * (published - start) > THREAD_ROWS:
            return await asyncio.to_thread(self._prices, assets, start, published)
        return self._prices(assets, start, published)

    async def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _prices(self, assets: Sequence[str], start: int, end: int) -> dict[str, Series]:
        from precog_runtime.simulator.prices import prices

        return {asset: prices(asset, start, end, self._seed, self._regime) for asset in assets}
