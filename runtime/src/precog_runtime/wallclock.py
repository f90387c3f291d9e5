"""The wall clock, corrected by the Date headers of the source's answers: prices are published by the source's clock."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from precog_runtime.metrics import Metrics

logger = logging.getLogger(__name__)

KEPT, LEAST = 9, 5  # headers that the median is taken of; with fewer nothing is corrected
# A Date header gives whole seconds, so a single one is right within half of one, and half of its request's way.
UNCERTAIN_S = 1.0  # a clock that is off by no more is taken as it is
WARN_S = 5.0
WRONG_S = 60.0  # from here on, not ready: whatever else uses this clock fails (validators' signatures have times)
HINT = "Set the host's clock, for instance by `timedatectl set-ntp true`, and see `timedatectl timesync-status`"


class WallClock:
    """Tells the time, seconds since the epoch. From any thread, but for `heard`.

    :param now: the host's wall clock.
    :param monotonic: a clock that nobody sets, seconds: what was heard stays right when the host's clock is set.
    """

    def __init__(
        self,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metrics = metrics
        self._now = now
        self._monotonic = monotonic
        self._heard: deque[float] = deque(maxlen=KEPT)  # the source's time less the monotonic one
        self._median = math.nan
        self._warned = False

    def __call__(self) -> float:
        """Return the source's time if the host's is off by more than UNCERTAIN_S, else the host's."""
        now = self._now()
        skew_s = now - self._median - self._monotonic()
        return now - skew_s if abs(skew_s) > UNCERTAIN_S else now

    def skew_s(self) -> float:
        """Return by how many seconds the host's clock is ahead of the source's, within 1 s; NaN while not known."""
        return self._now() - self._median - self._monotonic()

    def heard(self, headers: Mapping[str, str], took_s: float) -> None:
        """Take note of an answer of the source that has just come.

        :param headers: its headers; without a Date, or from a cache (Age), it says nothing.
        :param took_s: from the request to its headers, seconds.
        """
        try:
            moment = parsedate_to_datetime(headers.get("Date", "")).timestamp()
        except (ValueError, TypeError, OverflowError, OSError):
            return
        if "Age" in headers:
            return
        self._heard.append(moment + 0.5 - (self._monotonic() - took_s / 2))
        if len(self._heard) >= LEAST:
            self._median = statistics.median(self._heard)
            self._tell(self.skew_s())

    def trouble(self) -> str:
        """Return why the host's clock keeps this runtime from being ready, "" if it doesn't."""
        skew_s = self.skew_s()
        return f"{_told(skew_s)}; {WRONG_S:g} s at most are accepted. {HINT}" if abs(skew_s) > WRONG_S else ""

    def _tell(self, skew_s: float) -> None:
        self._metrics.clock(skew_s)
        wrong = abs(skew_s) > WARN_S
        if wrong and not self._warned:
            logger.warning("%s by the source's Date headers. Times are corrected. %s", _told(skew_s), HINT)
        elif self._warned and not wrong:
            logger.warning("the host's clock is right again within %g s", WARN_S)
        self._warned = wrong


def _told(skew_s: float) -> str:
    return f"the host's clock is {abs(skew_s):.0f} s {'fast' if skew_s > 0 else 'slow'}"
