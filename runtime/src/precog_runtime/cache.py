"""Forecasts that were made already: in memory first, on disk behind it.

The memory layer drops what was not used for longest (LRU), keeps each forecast for a time to live, and sizes itself. A
hit rate says little about whether a cache is too small: it is high where a small cache does, and low where no size
would help. What tells is a miss on a key that was dropped for lack of room a moment ago. So the keys of dropped
forecasts stay in a "ghost" list, as in ARC (Megiddo and Modha, ARC: A Self-Tuning, Low Overhead Replacement Cache, FAST
2003): a miss on one of them is a hit that more room would have made. A few of those within a minute are let pass; each
further one makes room for one more forecast, so that a working set fits after one round. Many minutes without any, and
with half of the room not used, halve it. All of it, ghosts too, stays within `cache_mb`. A scan of keys that never come
back makes no such misses, so it does not make the cache grow.
"""

from __future__ import annotations

import math
import sys
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import orjson
from cachetools import TLRUCache

from precog_runtime.metrics import Metrics
from precog_runtime.settings import Settings
from precog_runtime.store import Schema, Store
from precog_runtime.types import Forecast

Key = tuple[str, str, int, int]  # model, asset, timestamp, version of the data

# Bytes of an entry but for its strings, measured with tracemalloc: key, forecast with its floats, and the nodes that
# cachetools keeps for it in three dictionaries and a heap.
ENTRY_BYTES = 1_300
GHOST_BYTES = 300  # of a ghost: a number, a time and a node
GHOST_SHARE = 0.125  # of the bound, for ghosts
FLOOR_SHARE = 1 / 16  # of the bound: where the size begins, and what it never goes below
LEAST_BYTES = 65_536  # nor below this, if the bound allows
PASSED_MISSES = 8  # misses on ghosts between two calls of clean() that don't make the cache grow yet
SHRINK_AFTER = 10  # calls of clean() in a row without a miss on a ghost, before the cache shrinks
PATIENCE_S = 0.05  # of a look at the disk, which is made in the event loop
CLEAN_EVERY = 1_000  # forecasts written to disk between two looks at its size

FILE = "forecasts.sqlite"
_SCHEMA = Schema(
    application=0x50524643,  # "PRFC"
    version=1,
    statements=(
        """CREATE TABLE IF NOT EXISTS forecasts (
            model TEXT NOT NULL, asset TEXT NOT NULL, timestamp INTEGER NOT NULL, version TEXT NOT NULL,
            stored REAL NOT NULL, value TEXT NOT NULL, crc INTEGER NOT NULL,
            PRIMARY KEY (model, asset, timestamp, version)) WITHOUT ROWID""",
        "CREATE INDEX IF NOT EXISTS by_age ON forecasts (stored)",
    ),
)
_GET = "SELECT stored, value, crc FROM forecasts WHERE model = ? AND asset = ? AND timestamp = ? AND version = ?"
_PUT = """INSERT INTO forecasts (model, asset, timestamp, version, stored, value, crc) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET stored = excluded.stored, value = excluded.value, crc = excluded.crc"""
# Only the very row that was found bad: another process may have put a good one there since.
_REMOVE = """DELETE FROM forecasts
    WHERE model = ? AND asset = ? AND timestamp = ? AND version = ? AND stored = ? AND value = ? AND crc = ?"""
_EXPIRE = "DELETE FROM forecasts WHERE stored <= ? OR stored >= ?"
# The oldest, as many as bring what is used down to 90 % of the bound (parameter, bytes).
_BOUND = """DELETE FROM forecasts WHERE (model, asset, timestamp, version) IN (
    SELECT model, asset, timestamp, version FROM forecasts ORDER BY stored LIMIT (
        SELECT CASE WHEN used > bound THEN CAST((SELECT count(*) FROM forecasts) * (1 - 0.9 * bound / used) AS INTEGER)
               ELSE 0 END
        FROM (SELECT (page_count - freelist_count) * page_size AS used, CAST(? AS REAL) AS bound
              FROM pragma_page_count, pragma_freelist_count, pragma_page_size)))"""


class _Entry(NamedTuple):
    forecast: Forecast
    nbytes: int
    expires: float


def _nbytes(entry: _Entry) -> int:
    return entry.nbytes


def _expires(_key: Key, entry: _Entry, _moment: float) -> float:
    return entry.expires


class Kept(NamedTuple):
    """A forecast from disk.

    :ivar left_s: seconds for which it is still good.
    """

    forecast: Forecast
    left_s: float


class DiskCache:
    """The layer on disk: `state_dir`/forecasts.sqlite, shared by all processes that name this folder.

    A row holds the key, when it was stored (seconds since the epoch), the forecast as JSON and a checksum of all that.
    """

    def __init__(self, settings: Settings, metrics: Metrics, now: Callable[[], float] = time.time) -> None:
        self._ttl_s = settings.cache_ttl_s
        self._bound = settings.disk_cache_mb * 1e6
        self._metrics = metrics
        self._now = now
        self._puts = 0
        self.store = Store(str(Path(settings.state_dir) / FILE), _SCHEMA, metrics)

    def get(self, key: Key) -> Kept | None:
        """Return what was kept, by any process. Reads the file: tens of microseconds."""
        columns = _columns(key)
        rows = self.store.query(_GET, columns, PATIENCE_S)
        found = self._checked(columns, *rows[0]) if rows else None
        self._metrics.cache("disk", "hit" if found else "miss")
        return found

    def put(self, key: Key, forecast: Forecast) -> None:
        """Keep a forecast; it is written a little later, this doesn't wait for it."""
        columns, stored = _columns(key), float(self._now())
        # float(): a model may give numpy's floats, which orjson refuses.
        numbers = {"point": float(forecast.point), "low": float(forecast.low), "high": float(forecast.high)}
        value = orjson.dumps(numbers).decode()
        self.store.put(_PUT, [(*columns, stored, value, _crc(columns, stored, value))])
        self._puts += 1
        if self._puts % CLEAN_EVERY == 0:
            self.clean()

    def clean(self) -> None:
        """Remove what has expired, and the oldest of what is beyond the bound; doesn't wait for it."""
        now = self._now()
        self.store.put(_EXPIRE, [(now - self._ttl_s, now + self._ttl_s)])
        self.store.put(_BOUND, [(self._bound,)])
        self.store.shrink()

    def close(self) -> None:
        """Write what is queued and close the file."""
        self.store.close()

    def _checked(self, columns: tuple[object, ...], stored: object, value: object, crc: object) -> Kept | None:
        forecast = _parsed(value) if crc == _crc(columns, stored, value) else None
        if forecast is None or not isinstance(stored, float):
            self._metrics.error("cache_row")
            self.store.put(_REMOVE, [(*columns, stored, value, crc)])
            return None
        # Stored "in the future": the clock was set back since. How long ago it was is not known then, but it is
        # never kept for longer than twice the time to live.
        age = self._now() - stored
        if not -self._ttl_s < age < self._ttl_s:
            return None
        return Kept(forecast, self._ttl_s - max(age, 0.0))


class PredictionCache:
    """The cache of forecasts, by model, asset, timestamp and version of the data. For the event loop's thread only."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        disk: DiskCache | None = None,
    ) -> None:
        bound = int(settings.cache_mb * 1e6)
        self._ttl_s = settings.cache_ttl_s
        self._metrics = metrics
        self._now = now
        self._disk = disk
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
        """Return how many forecasts are in memory, those included that have expired since the last change."""
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
            return self._missed(key)
        self._metrics.cache("memory", "hit")
        return entry.forecast

    def put(self, key: Key, forecast: Forecast) -> None:
        """Keep a forecast in memory, and on disk a little later."""
        self._tick()
        self._keep(key, forecast, self._ttl_s)
        if self._disk:
            self._disk.put(key, forecast)

    def clean(self) -> None:
        """Remove what has expired and settle the size; call it about once a minute."""
        self._tick()
        self._entries.expire()
        while self._ghosts and next(iter(self._ghosts.values())) <= self._moment:
            self._ghosts.popitem(last=False)
        self._settle()
        if self._disk:
            self._disk.clean()

    def close(self) -> None:
        """Write what is queued for the disk."""
        if self._disk:
            self._disk.close()

    def _tick(self) -> None:
        """Move the cache's own clock by what passed; one that is set back stands still, as cachetools needs it."""
        now = self._now()
        if now > self._last:
            self._moment += now - self._last
        self._last = now

    def _missed(self, key: Key) -> Forecast | None:
        self._metrics.cache("memory", "miss")
        if self._ghosts.pop(hash(key), 0.0) > self._moment:
            self._regret(_bytes(key))
        kept = self._disk.get(key) if self._disk else None
        if kept is None:
            return None
        self._keep(key, kept.forecast, kept.left_s)
        return kept.forecast

    def _keep(self, key: Key, forecast: Forecast, left_s: float) -> None:
        nbytes = _bytes(key)
        self._entries.pop(key, None)
        self._ghosts.pop(hash(key), None)
        self._entries.expire()
        if nbytes <= self._size:
            self._make_room(self._size - nbytes)
            self._entries[key] = _Entry(forecast, nbytes, self._moment + left_s)
            self._peak = max(self._peak, int(self._entries.currsize))

    def _make_room(self, nbytes: int) -> None:
        """Drop what was used least recently until no more than so many bytes are used; remember the keys."""
        while self._entries.currsize > nbytes:
            key, entry = self._entries.popitem()
            self._ghosts[hash(key)] = entry.expires
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


def _columns(key: Key) -> tuple[object, ...]:
    model, asset, timestamp, version = key
    # The version as text: it may have 64 bits, of which SQLite's numbers use one for the sign.
    return model, asset, int(timestamp), str(version)


def _crc(*parts: object) -> int:
    return zlib.crc32(repr(parts).encode("utf-8", "backslashreplace"))


def _parsed(value: object) -> Forecast | None:
    """Return the forecast that JSON text holds; None if it holds none that could have been put there."""
    try:
        found = orjson.loads(value) if isinstance(value, str) else None
        forecast = Forecast(**found) if isinstance(found, dict) else None
    except (orjson.JSONDecodeError, TypeError):
        return None
    numbers = (forecast.point, forecast.low, forecast.high) if forecast else ("",)
    return forecast if all(isinstance(each, float) and math.isfinite(each) for each in numbers) else None
