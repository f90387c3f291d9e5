"""How many requests the source allows in a period, kept by us, so that it has no reason to refuse one."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from precog_runtime.errors import RateLimited

# Set where old prices are fetched: those requests leave half of the budget to the fresh ones;
# of a budget of one request, every second turn.
background: ContextVar[bool] = ContextVar("background", default=False)
# Set where fresh prices are fetched: for who waits, the last ones are better than a wait for the rate limit.
urgent: ContextVar[bool] = ContextVar("urgent", default=False)

LEFT_PERIODS = 2.0  # how long the turn after one in the background is kept for a fresh price
LONGEST_RESET_S = 60.0  # what a source may ask for; a proxy's absurd value must not silence us for days


class _Use:
    """The requests of the last period.

    A request counts from its begin until a period after its end: it reached the server somewhere between, so the
    server never sees more of them, however long each one's way is.
    """

    def __init__(self, allowed: int, period_s: float) -> None:
        self._allowed = allowed
        self._period_s = period_s
        self._open = 0
        self._ended: deque[float] = deque()

    def begin(self) -> None:
        self._open += 1

    def end(self, now: float) -> None:
        self._open -= 1
        self._ended.append(now)

    def wait_s(self, now: float) -> float:
        """Return how long there can't be another at least, 0 if there can be one now."""
        while self._ended and self._ended[0] <= now - self._period_s:
            self._ended.popleft()
        excess = self._open + len(self._ended) - self._allowed
        if excess < 0:
            return 0.0
        # So many must have ended a period ago; what is still open will count for one more period at least.
        return (self._ended[excess] if excess < len(self._ended) else now) + self._period_s - now


class Budget:
    """At most `requests` in any `period_s` seconds, as the server counts them; half of them in the background.

    Of one request a period, the background gets the turns between those for fresh prices.
    """

    def __init__(self, requests: int, period_s: float) -> None:
        self._period_s = period_s
        self._whole = _Use(requests, period_s)
        self._background = _Use(max(1, requests // 2), period_s)
        self._alternate = requests == 1
        self._left_until = -math.inf  # the next turn is not the background's
        self._blocked_until = -math.inf

    @asynccontextmanager
    async def acquire(self, timeout_s: float) -> AsyncIterator[None]:
        """Wait for the turn of one request, which is then made inside the `async with`.

        :raises RateLimited: the turn does not come within `timeout_s` seconds, or not now where it is `urgent`; told at
            once, not after them.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        uses = [self._whole, self._background] if background.get() else [self._whole]
        while (wait_s := max(self._barred_s(loop.time()), *(use.wait_s(loop.time()) for use in uses))) > 0:
            if urgent.get() or loop.time() + wait_s > deadline:
                raise RateLimited(f"the rate limit allows no request for {wait_s:.1f} s", wait_s)
            # Not longer than a period: a fresh price may have been fetched by then, and the turn be ours.
            await asyncio.sleep(min(wait_s, self._period_s))
        for use in uses:
            use.begin()
        self._left_until = math.inf if background.get() and self._alternate else -math.inf
        try:
            yield
        finally:
            for use in uses:
                use.end(loop.time())
            if self._left_until == math.inf:
                self._left_until = loop.time() + (1 + LEFT_PERIODS) * self._period_s

    def _barred_s(self, now: float) -> float:
        """Return how long there is to be no request at least, whatever the use."""
        return max(self._blocked_until, self._left_until if background.get() else -math.inf) - now

    def told(self, reset_s: float) -> None:
        """Take note that the source allows no request for `reset_s` seconds from now (60 at the most)."""
        until = asyncio.get_running_loop().time() + min(reset_s, max(LONGEST_RESET_S, self._period_s))
        self._blocked_until = max(self._blocked_until, until)
