"""The prices of one asset over the last hours, one slot a second, in memory of a fixed size."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from precog_runtime.types import Series

if TYPE_CHECKING:
    from precog_runtime.types import Floats, Ints

REMEMBERED = 256  # versions kept at most; a mark's burst asks for one or two
BLOCK_S = 600  # how far back `last` looks at a time


def ordered(times: Ints, prices: Floats) -> Series:
    """Return rows as a series: oldest first, one a second; of rows of the same second the last one counts."""
    if len(times) > 1 and not (times[1:] > times[:-1]).all():
        order = np.argsort(times, kind="stable")
        times, prices = times[order], prices[order]
        last = np.append(times[1:] != times[:-1], True)
        times, prices = times[last], prices[last]
    return Series(times, prices)


class Window:
    """A ring of prices: the one of second t is in slot t % seconds. It holds the `seconds` up to the newest price.

    :ivar newest: second of the newest price; None while there is none.
    """

    def __init__(self, seconds: int) -> None:
        self.newest: int | None = None
        self._prices: Floats = np.full(seconds, np.nan)
        self._versions: dict[tuple[int, int], int] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the prices."""
        return self._prices.nbytes

    @property
    def oldest(self) -> int:
        """The first second that the ring has a slot for; 0 while it is empty."""
        return 0 if self.newest is None else self.newest - len(self._prices) + 1

    def extend(self, series: Series) -> bool:
        """Put prices in, new ones, late ones and corrections alike; what is older than the ring is left out.

        O(1) a row, whatever the ring holds.

        :return: whether any price changed.
        """
        if not len(series):
            return False
        self._move_to(int(series.times[-1]))
        kept = int(np.searchsorted(series.times, self.oldest))
        times, prices = series.times[kept:], series.prices[kept:]
        slots = times % len(self._prices)
        changed = self._prices[slots] != prices
        if not changed.any():
            return False
        self._prices[slots] = prices
        changed_times = times[changed]
        self._forget(int(changed_times[0]), int(changed_times[-1]))
        return True

    def _move_to(self, newest: int) -> None:
        """Let the ring end at `newest`, if that is later: slots of the seconds passed over are empty."""
        size = len(self._prices)
        if self.newest is None:
            self.newest = newest
            return
        ahead = newest - self.newest
        if ahead <= 0:
            return
        begin = (self.newest + 1) % size
        passed = min(ahead, size)
        self._prices[begin : begin + passed] = np.nan
        self._prices[: max(0, begin + passed - size)] = np.nan
        self.newest = newest

    def _forget(self, first: int, last: int) -> None:
        """Drop the versions of ranges in which something changed, or whose beginning has left the ring."""
        oldest = self.oldest
        self._versions = {
            (start, end): version
            for (start, end), version in self._versions.items()
            if (end < first or start > last) and start >= oldest
        }

    def series(self, start: int, end: int) -> Series:
        """Return a copy of the prices with start <= time <= end."""
        if self.newest is None:
            return _empty()
        start, end = max(start, self.oldest), min(end, self.newest)
        if start > end:
            return _empty()
        size = len(self._prices)
        begin, count = start % size, end - start + 1
        part = self._prices[begin : begin + count]
        if len(part) < count:
            part = np.concatenate((part, self._prices[: count - len(part)]))
        found = np.flatnonzero(~np.isnan(part))
        return Series(found + start, part[found])

    def price(self, second: int) -> float | None:
        """Return the price of a second in USD, None if there is none."""
        if self.newest is None or not self.oldest <= second <= self.newest:
            return None
        price = float(self._prices[second % len(self._prices)])
        return None if np.isnan(price) else price

    def last(self, second: int) -> int | None:
        """Return the newest second up to `second` that has a price, None if there is none."""
        if self.newest is None:
            return None
        end = min(second, self.newest)
        while end >= self.oldest:
            if self.price(end) is not None:  # as good as always
                return end
            times = self.series(end - BLOCK_S, end).times
            if len(times):
                return int(times[-1])
            end -= BLOCK_S + 1
        return None

    def first(self, second: int) -> int | None:
        """Return the oldest second from `second` on that has a price, None if there is none."""
        if self.newest is None:
            return None
        begin = max(second, self.oldest)
        while begin <= self.newest:
            times = self.series(begin, begin + BLOCK_S).times
            if len(times):
                return int(times[0])
            begin += BLOCK_S + 1
        return None

    def version(self, start: int, end: int) -> int:
        """Return a number of 63 bits made from the times and prices from `start` to `end`.

        The same data give the same number in every process and on every run; other data, another (BLAKE2b).
        """
        known = self._versions.get((start, end))
        if known is not None:
            return known
        series = self.series(start, end)
        digest = hashlib.blake2b(series.times.tobytes(), digest_size=8)
        digest.update(series.prices.tobytes())
        version = int.from_bytes(digest.digest(), "big") >> 1
        if len(self._versions) >= REMEMBERED:
            del self._versions[next(iter(self._versions))]
        self._versions[start, end] = version
        return version


def _empty() -> Series:
    return Series(np.empty(0, np.int64), np.empty(0))
