"""The cache that bench_cache.py measures beside the runtime's: the same, but for a size steered by the misses.

It drops what was not used for longest (LRU), keeps each forecast for a time to live, and sizes itself. A
hit rate says little about whether a cache is too small: it is high where a small cache does, and low where no size
would help. What tells is a miss on a key that was dropped for lack of room a moment ago. So the keys of dropped
forecasts stay in a "ghost" list, as in ARC (Megiddo and Modha, ARC: A Self-Tuning, Low Overhead Replacement Cache, FAST
2003): a miss on one of them is a hit that more room would have made. A few of those within a minute are let pass; each
further one makes room for one more forecast, so that a working set fits after one round. Many minutes without any, and
with half of the room not used, halve it. All of it, ghosts too, stays within `cache_mb`. A scan of keys that never come
back makes no such misses, so it does not make the cache grow.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from cachetools import TLRUCache

from precog_runtime.cache import Key
from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.types import Forecast

# Bytes of an entry but for its strings, measured with tracemalloc: key, forecast with its floats, and the nodes that
# cachetools keeps for it in three dictionaries and a heap.
ENTRY_BYTES = 1_300
GHOST_BYTES = 300  # of a ghost: a number, a time and a node
GHOST_SHARE = 0.125  # of the bound, for ghosts
FLOOR_SHARE = 1 / 16  # of the bound: where the size begins, and what it never goes below
LEAST_BYTES = 65_536  # nor below this, if the bound allows
PASSED_MISSES = 8  # misses on ghosts between two calls of clean() that don't make the cache grow yet
SHRINK_AFTER = 10  # calls of clean() in a row without a miss on a ghost, before the cache shrinks


class _Entry(NamedTuple):
    forecast: Forecast
    nbytes: int
    expires: float


def _nbytes(entry: _Entry) -> int:
    return entry.nbytes


def _expires(_key: Key, entry: _Entry, _moment: float) -> float:
    return entry.expires


class GhostCache:
    """The cache of forecasts, by model, asset, timestamp and version of the data."""

    def __init__(self, settings: Settings, metrics: Metrics, now: Callable[[], float]) -> None:
        bound = int(settings.cache_mb * 1e6)
        self._ttl_s = settings.cache_ttl_s
        self._metrics = metrics
        self._now = now
        self._last = now()
        self._moment = 0.0
        self._ghosts: OrderedDict[int, float] = OrderedDict()  # hash of the key: when it would have expired
        self._most_ghosts = int(bound * GHOST_SHARE) // GHOST_BYTES
        self._most = bound - self._most_ghosts * GHOST_BYTES
        self._least = min(self._most, max(int(self._most * FLOOR_SHARE), LEAST_BYTES))
        self._size = self._least
        self._regrets = 0  # misses on ghosts since the last clean()
        self._quiet = 0  # calls of clean() without one
        self._peak = 0  # most bytes used since the size was last looked at
        self._entries: TLRUCache[Key, _Entry] = TLRUCache(
            self._most, ttu=_expires, timer=lambda: self._moment, getsizeof=_nbytes
        )

    def __len__(self) -> int:
        """Return how many forecasts there are, those included that have expired since the last change."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes in use, ghosts included."""
        return int(self._entries.currsize) + len(self._ghosts) * GHOST_BYTES

    @property
    def size(self) -> int:
        """Bytes that forecasts may use now; it moves between bounds."""
        return self._size

    def get(self, key: Key) -> Forecast | None:
        """Return the forecast, or None if it must be made."""
        self._tick()
        try:
            entry = self._entries[key]
        except KeyError:
            self._missed(key)
            return None
        self._metrics.cache("hit")
        return entry.forecast

    def put(self, key: Key, forecast: Forecast) -> None:
        """Keep a forecast."""
        self._tick()
        nbytes = _bytes(key)
        self._entries.pop(key, None)
        self._ghosts.pop(hash(key), None)
        self._entries.expire()
        if nbytes <= self._size:
            self._make_room(self._size - nbytes)
            self._entries[key] = _Entry(forecast, nbytes, self._moment + self._ttl_s)
            self._peak = max(self._peak, int(self._entries.currsize))

    def clean(self) -> None:
        """Remove what has expired and settle the size; call it about once a minute."""
        self._tick()
        self._entries.expire()
        while self._ghosts and next(iter(self._ghosts.values())) <= self._moment:
            self._ghosts.popitem(last=False)
        self._settle()

    def _tick(self) -> None:
        """Move the cache's own clock by what passed; one that is set back stands still, as cachetools needs it."""
        now = self._now()
        if now > self._last:
            self._moment += now - self._last
        self._last = now

    def _missed(self, key: Key) -> None:
        self._metrics.cache("miss")
        if self._ghosts.pop(hash(key), 0.0) > self._moment:
            self._regret(_bytes(key))

    def _make_room(self, nbytes: int) -> None:
        """Drop what was used least recently until no more than so many bytes are used; remember the keys."""
        while self._entries.currsize > nbytes:
            key, entry = self._entries.popitem()
            self._ghosts[hash(key)] = entry.expires
            self._metrics.cache_evicted()
            if len(self._ghosts) > self._most_ghosts:
                self._ghosts.popitem(last=False)

    def _regret(self, nbytes: int) -> None:
        self._regrets += 1
        if self._regrets > PASSED_MISSES:
            self._size = min(self._most, self._size + nbytes)

    def _settle(self) -> None:
        self._quiet = 0 if self._regrets else self._quiet + 1
        self._regrets = 0
        if self._quiet >= SHRINK_AFTER:
            half = max(self._least, self._size // 2)
            if self._peak <= half:
                self._size = half
            self._peak = int(self._entries.currsize)
            self._quiet = 0


def _bytes(key: Key) -> int:
    return ENTRY_BYTES + sys.getsizeof(key[0]) + sys.getsizeof(key[1])
