"""The forecast of one asset: the model's, if it can make one in time, else one of a model that always can."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from precog_runtime.cache import Key
from precog_runtime.errors import ModelError, RequestRefused
from precog_runtime.forecast.degrade import widen
from precog_runtime.forecast.model import check as check_forecast
from precog_runtime.settings import RESERVE_S
from precog_runtime.types import NEWEST, AssetAnswer, Floats, Forecast, Ints, Model, Series
from precog_runtime.workers.pool import WorkerDied

if TYPE_CHECKING:
    from precog_runtime.cache import PredictionCache
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings
    from precog_runtime.workers import WorkerPool

logger = logging.getLogger(__name__)

KEPT = 1024  # entries of a table; each holds only until prices change
# Forecasts that requests may queue for the model, times assets; those made ahead are queued besides. Of marks and the
# present (see requests.py) 34 seconds can be named by the defaults; without marks, any.
MOST_WAITING = 40
TOO_SLOW = "model too slow"
TOO_MANY = "too many timestamps at once: made from the newest prices, whatever the timestamp"
SLOW, BUSY, BROKEN = "model_slow", "busy", "internal"  # kinds of errors: of the model, its queue, and of a fallback
FAILURES = (SLOW, BUSY, ModelError.kind, WorkerDied.kind)  # what a model's good forecast is the end of


def run_model(model: Model, asset: str, timestamp: int, times: Ints, prices: Floats) -> Forecast:
    """Call a model; in a function of its own, so that it can be sent to a worker process."""
    return model.forecast(asset, timestamp, Series(times, prices))


@dataclass(slots=True, eq=False)
class Made:
    """A forecast, and what its answers tell.

    :ivar newest: second of the newest price that it was made from.
    :ivar changes: the change of the market until which nothing newer was known.
    :ivar model: name of the model that made it.
    :ivar trouble: why that is not the model that was wanted, "" if it is.
    """

    asset: str
    forecast: Forecast
    newest: int
    changes: int
    model: str
    trouble: str = ""
    _told: AssetAnswer | None = None

    def answer(self, age_s: float, fresh_s: float) -> AssetAnswer:
        """Return the answer at the moment at which its newest price is so old. From any thread."""
        told = self._told
        # A burst is answered within a second, so most have the age of the one before.
        if told is None or told.age_s != age_s:
            told = self._told = self._answer(age_s, age_s > fresh_s)
        return told

    def _answer(self, age_s: float, stale: bool) -> AssetAnswer:
        reasons = [*([f"prices are {age_s:.0f} s old"] if stale else []), *([self.trouble] if self.trouble else [])]
        forecast = widen(self.forecast, age_s) if stale else self.forecast
        return AssetAnswer(self.asset, forecast, age_s, self.model, "; ".join(reasons), self.newest)


class Table(dict[tuple[str, int], Made]):
    """What was made, by asset and timestamp; any thread reads it without a lock, as entries are replaced one by one."""

    def keep(self, timestamp: int, made: Made) -> None:
        """Put an entry in, dropping the oldest of a full table."""
        self.pop((made.asset, timestamp), None)
        if len(self) >= KEPT:
            del self[next(iter(self))]
        self[made.asset, timestamp] = made


def _beginning(timestamp: int, newest: int) -> int:
    """Return the second at which the model's horizon begins: the newest price's, where no timestamp counts."""
    return newest if timestamp == NEWEST else timestamp


class _Busy(ModelError):
    """So many forecasts of an asset wait for the model that no more are queued."""

    kind = BUSY


class _Taken(NamedTuple):
    """What a forecast is made from.

    :ivar newest: second of the newest price.
    :ivar changes: the change of the market by then.
    :ivar last: the newest price, USD.
    """

    key: Key
    newest: int
    changes: int
    last: float


class Forecaster:
    """Makes forecasts. Belongs to one event loop.

    :param model: makes them.
    :param fallbacks: one after the other make them where `model` fails or is too slow; quick, and never waited for.
    :param clock: the clock of deadlines, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        market: Market,
        cache: PredictionCache,
        pool: WorkerPool,
        metrics: Metrics,
        model: Model,
        fallbacks: Sequence[Model],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = model
        self.fallbacks = fallbacks
        self._settings = settings
        self._market = market
        self._cache = cache
        self._pool = pool
        self._metrics = metrics
        self._clock = clock
        self._queued: dict[tuple[str, int], asyncio.Future[Made]] = {}  # by asset and timestamp: no prices taken yet
        self._making: dict[Key, asyncio.Future[Made]] = {}
        self._replaced = Table()
        self._failing: dict[tuple[str, str], set[str]] = {}  # assets by model and kind of failure

    async def forecast(self, asset: str, timestamp: int, newest: int, deadline: float, ahead: bool = False) -> Made:
        """Return the model's forecast, or the one of a fallback shortly before the deadline.

        :param timestamp: or NEWEST.
        :param newest: second of the newest price that it may be made from.
        :param ahead: nobody has asked yet: it is queued however many requests wait.
        :raises RequestRefused: no model could make one.
        """
        try:
            return await self._by_model(asset, timestamp, newest, deadline, ahead)
        except asyncio.TimeoutError:
            return self.late(asset, timestamp, newest)
        except _Busy:
            # Of one second, whatever was asked for: a flood of timestamps costs one forecast.
            newest = self._market.windows[asset].newest or newest
            return self._instead(asset, newest, newest, BUSY, TOO_MANY)
        except ModelError as error:
            return self._instead(asset, timestamp, newest, error.kind, f"model failed: {error}")

    def late(self, asset: str, timestamp: int, newest: int) -> Made:
        """Return a fallback's forecast for one who can't wait for the model any longer.

        :raises RequestRefused: no model could make one.
        """
        return self._instead(asset, timestamp, newest, SLOW, TOO_SLOW)

    def _instead(self, asset: str, timestamp: int, newest: int, kind: str, trouble: str) -> Made:
        """Return a fallback's forecast, which is made once for all who ask the same of the same prices."""
        self._metrics.error(kind)
        self._failed(self.model, asset, kind, trouble)
        made = self._replaced.get((asset, timestamp))
        if made is None or made.changes != self._market.changes:
            made = self._by_fallback(asset, timestamp, newest)
            self._replaced.keep(timestamp, made)
        return replace(made, trouble=trouble, _told=None)

    def _by_fallback(self, asset: str, timestamp: int, newest: int) -> Made:
        timestamp = _beginning(timestamp, newest)
        for model in self.fallbacks:
            series = self._series(model, asset, timestamp, newest)
            try:
                made = check_forecast(asset, model.forecast(asset, timestamp, series), float(series.prices[-1]))
            except Exception as error:  # a bug of ours, or prices that no arithmetic stands
                self._metrics.error(BROKEN)
                self._failed(model, asset, BROKEN, f"model failed: {type(error).__name__}: {error}")
            else:
                self._well(model, asset, [BROKEN])
                return Made(asset, made, newest, self._market.changes, model.name)
        raise RequestRefused("no model can make a forecast of its prices")

    def _series(self, model: Model, asset: str, timestamp: int, newest: int) -> Series:
        """Return what a model looks back on; where all of it is lacking, the newest price: it is promised one."""
        return self._market.series(asset, min(timestamp - model.lookback_s, newest), timestamp)

    def _key(self, asset: str, timestamp: int, newest: int) -> Key:
        timestamp = _beginning(timestamp, newest)
        start = min(timestamp - self.model.lookback_s, newest)
        return self.model.name, asset, timestamp, self._market.version(asset, start, timestamp)

    async def _by_model(self, asset: str, timestamp: int, newest: int, deadline: float, ahead: bool) -> Made:
        """Return the model's forecast from the cache, or have it made once for all who wait.

        :raises ModelError: the model failed, gave no forecast, or too many wait for it.
        :raises asyncio.TimeoutError: it takes too long.
        """
        making = self._queued.get((asset, timestamp))  # it will be made from prices as new as any
        if making is None and not ahead and len(self._queued) >= MOST_WAITING * len(self._settings.assets):
            raise _Busy(TOO_MANY)
        if making is None:
            key = self._key(asset, timestamp, newest)
            cached = self._cache.get(key)
            if cached is not None:
                return Made(asset, cached, newest, self._market.changes, self.model.name)
            making = self._making.get(key)
        if making is None:
            making = self._queued[asset, timestamp] = asyncio.ensure_future(self._make(asset, timestamp, newest))
            making.add_done_callback(lambda done: self._done(asset, timestamp, done))
        # Shielded: one who gives up must not take the forecast from the others.
        left_s = deadline - self._clock() - RESERVE_S
        made = await asyncio.wait_for(asyncio.shield(making), max(0.001, left_s))
        self._well(self.model, asset, FAILURES)
        return made

    def _done(self, asset: str, timestamp: int, done: asyncio.Future[Made]) -> None:
        if self._queued.get((asset, timestamp)) is done:  # its turn never came
            del self._queued[asset, timestamp]
        if not done.cancelled():
            done.exception()  # seen, even if all who waited have given up

    async def _make(self, asset: str, timestamp: int, newest: int) -> Made:
        """Have the model make a forecast, and keep it; given up after `deadline_s`, or a hung model kept its place.

        Its prices are taken when its turn comes: a copy of hours of them for each that waits would fill the memory.

        :raises ModelError: it failed, or gave no forecast.
        """
        began, model = self._clock(), self.model
        taken: list[_Taken] = []

        def take() -> Sequence[Any]:
            one, series = self._take(model, asset, timestamp, newest)
            taken.append(one)
            return model, asset, _beginning(timestamp, one.newest), series.times, series.prices

        try:
            made = await asyncio.wait_for(self._pool.run_with(model.kind, run_model, take), self._settings.deadline_s)
            forecast = check_forecast(asset, made, taken[0].last)
        except (ModelError, asyncio.TimeoutError):
            raise
        except Exception as error:  # whatever an operator's model raises
            raise ModelError(f"{type(error).__name__}: {error}") from error
        finally:
            for one in taken:
                self._making.pop(one.key, None)
        self._cache.put(taken[0].key, forecast)
        self._metrics.forecast(asset, model.name, forecast, self._clock() - began)
        return Made(asset, forecast, taken[0].newest, taken[0].changes, model.name)

    def _take(self, model: Model, asset: str, timestamp: int, newest: int) -> tuple[_Taken, Series]:
        """Take the prices of a forecast whose turn has come."""
        newest = self._market.newest(asset, timestamp) or newest  # there may be newer ones by now
        series = self._series(model, asset, _beginning(timestamp, newest), newest)
        key = self._key(asset, timestamp, newest)
        self._making[key] = self._queued.pop((asset, timestamp))
        return _Taken(key, newest, self._market.changes, float(series.prices[-1])), series

    def _failed(self, model: Model, asset: str, kind: str, trouble: str) -> None:
        """Warn of a model that begins to fail in some way: a line for each request would bury the log."""
        assets = self._failing.setdefault((model.name, kind), set())
        if not assets:
            logger.warning("%s by %s: %s. Not told again until it is well", asset, model.name, trouble)
        assets.add(asset)

    def _well(self, model: Model, asset: str, kinds: Sequence[str]) -> None:
        for kind in kinds:
            assets = self._failing.get((model.name, kind), set())
            if asset in assets:
                assets.remove(asset)
                if not assets:
                    logger.warning("%s is well again (%s)", model.name, kind)
