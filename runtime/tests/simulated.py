"""The simulator's prices without a socket between: a source for tests that are not about the source."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from precog_runtime.simulator.prices import prices
from precog_runtime.types import Series

THREAD_ROWS = 2000  # more than that is made in a thread, so that the event loop goes on


class SimulatedMarket:
    """A source of made prices: the same seed and regime give the same prices; later ones than now aren't published."""

    def __init__(self, seed: int, regime: str, now: Callable[[], float] = time.time) -> None:
        self._seed = seed
        self._regime = regime
        self._now = now

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        published = min(end, int(self._now()))
        if published < start:
            return {}
        if len(assets) * (published - start) > THREAD_ROWS:
            return await asyncio.to_thread(self._prices, assets, start, published)
        return self._prices(assets, start, published)

    async def close(self) -> None:
        pass

    def _prices(self, assets: Sequence[str], start: int, end: int) -> dict[str, Series]:
        return {asset: prices(asset, start, end, self._seed, self._regime) for asset in assets}
