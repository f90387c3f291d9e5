"""Forecasts that were made already, in memory.

Each is kept for a time to live, so the cache grows with what is asked and shrinks when that expires. `cache_mb` is its
bound: beyond it the forecast that was not used for longest goes (LRU), and is counted as an eviction. Size, hits and
evictions are metrics, as a cache is too small only if it evicts what is asked for again. A bound that is moved by just
that (ghost lists, as in ARC) gained nothing on the requests of validators: bench/bench_cache.py has both.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cachetools import TTLCache

from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Forecast

Key = tuple[str, str, int, int]  # model, asset, timestamp, version of the data

# Bytes of an entry, measured with tracemalloc: key, forecast with its floats, and what cachetools keeps for it.
ENTRY_BYTES = 900


class _Entries(TTLCache[Key, Forecast]):
    """Counts what it drops for lack of room, before its time."""

    def __init__(self, most: int, ttl_s: float, clock: Callable[[], float], evicted: Callable[[], None]) -> None:
        super().__init__(most, ttl_s, clock)
        self._evicted = evicted

    def popitem(self) -> tuple[Key, Forecast]:
        self._evicted()
        return super().popitem()


class PredictionCache:
    """The cache of forecasts, by model, asset, timestamp and version of the data. For the event loop's thread only.

    :param clock: seconds, never set back.
    """

    def __init__(self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        most = int(settings.cache_mb * 1e6) // ENTRY_BYTES
        self._entries = _Entries(most, settings.cache_ttl_s, clock, metrics.cache_evicted)

    def __len__(self) -> int:
        """Return how many forecasts there are."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return len(self) * ENTRY_BYTES

    def get(self, key: Key) -> Forecast | None:
        """Return the forecast, or None if it must be made."""
        forecast = self._entries.get(key)
        self._metrics.cache("miss" if forecast is None else "hit")
        return forecast

    def put(self, key: Key, forecast: Forecast) -> None:
        """Keep a forecast."""
        self._entries[key] = forecast
        self._metrics.cache_size(self.nbytes)

    def clean(self) -> None:
        """Remove what has expired; call it about once a minute."""
        self._entries.expire()
        self._metrics.cache_size(self.nbytes)
