"""The one path from a request to its answer: check, market, cache, model, answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from precog_runtime.errors import ModelError, RequestRefused, SourceError
from precog_runtime.forecast.degrade import widen
from precog_runtime.forecast.model import check as check_forecast
from precog_runtime.requests import Checked, check
from precog_runtime.types import Answer, AssetAnswer, Floats, Forecast, Ints, Model, Request, Series

if TYPE_CHECKING:
    from precog_runtime.cache import Key, PredictionCache
    from precog_runtime.log import PredictionLog
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings
    from precog_runtime.workers import WorkerPool

logger = logging.getLogger(__name__)

RESERVE_S = 0.25  # of a deadline, kept for the answer itself once waiting is given up
KEPT = 1024  # entries of the table of ready answers; each holds only until prices change


def run_model(model: Model, asset: str, timestamp: int, times: Ints, prices: Floats) -> Forecast:
    """Call a model; in a function of its own with plain arrays, so that a worker process gets them by shared memory."""
    return model.forecast(asset, timestamp, Series(times, prices))


class Engine:
    """Answers requests. All but `ready` belongs to one event loop; `ready` may be called from any thread.

    :param model: makes the forecasts.
    :param fallback: makes them where `model` fails or is too slow; quick, and never waited for.
    :param now: wall clock, seconds since the epoch.
    :param clock: the clock of deadlines and latencies, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        market: Market,
        cache: PredictionCache,
        log: PredictionLog,
        pool: WorkerPool,
        metrics: Metrics,
        model: Model,
        fallback: Model,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.now = now
        self.clock = clock
        self._market = market
        self._cache = cache
        self._log = log
        self._pool = pool
        self._metrics = metrics
        self._model = model
        self._fallback = fallback
        self._making: dict[Key, asyncio.Future[Forecast]] = {}
        self._answering: dict[tuple[tuple[str, ...], int, int], asyncio.Future[list[AssetAnswer | RequestRefused]]] = {}
        # What `ready` answers from: replaced entry by entry, read without a lock. The second part of an entry tells
        # until which change of the market it holds.
        self._table: dict[tuple[str, int], tuple[AssetAnswer, int]] = {}

    def ready(self, request: Request, front: str = "") -> Answer | None:
        """Answer at once from what is prepared; None if anything would have to be waited for or computed."""
        began = self.clock()
        checked = check(request, self.settings, self.now())
        answer = self._from_table(checked)
        if answer is not None:
            self._finish(front, request, answer, began)
        return answer

    async def answer(self, request: Request, front: str = "") -> Answer:
        """Answer, from the last good data where newer can't be had in time. Never raises but for a bug.

        It returns before the request's deadline, but for the few milliseconds of the fallback model.
        """
        began = self.clock()
        checked = check(request, self.settings, self.now())
        answer = self._from_table(checked)
        if answer is None:
            answer = await self._fresh(
                checked.assets, cast("int", checked.timestamp), request.deadline, checked.refused
            )
        self._finish(front, request, answer, began)
        return answer

    async def _fresh(
        self, assets: Sequence[str], timestamp: int, deadline: float, refused: Mapping[str, str]
    ) -> Answer:
        """Answer from the newest prices that can be had in time."""
        await self._freshen(assets, timestamp, deadline)
        answers = await self._shared(assets, timestamp, deadline)
        made = {one.asset: one for one in answers if isinstance(one, AssetAnswer)}
        lacking = {asset: str(one) for asset, one in zip(assets, answers, strict=True) if asset not in made}
        return Answer(timestamp, made, {**refused, **lacking})

    async def _shared(
        self, assets: Sequence[str], timestamp: int, deadline: float
    ) -> list[AssetAnswer | RequestRefused]:
        """Answer assets once for all who ask the same of the same prices: a burst waits for one fetch, and goes on."""
        key = (tuple(assets), timestamp, self._market.changes)
        answering = self._answering.get(key)
        if answering is None:
            # Not by the deadline of who happens to be the first.
            theirs = self.clock() + self.settings.deadline_s
            answering = asyncio.ensure_future(self._all(assets, timestamp, theirs))
            self._answering[key] = answering
            answering.add_done_callback(lambda _done: self._answering.pop(key))
        await asyncio.wait({answering}, timeout=max(0.0, deadline - self.clock() - RESERVE_S))
        return answering.result() if answering.done() else await self._all(assets, timestamp, deadline)

    async def _all(self, assets: Sequence[str], timestamp: int, deadline: float) -> list[AssetAnswer | RequestRefused]:
        return await asyncio.gather(*(self._one(asset, timestamp, deadline) for asset in assets))

    async def prepare(self, timestamp: int) -> None:
        """Make the forecasts for a timestamp from the data that there is, so that `ready` has them."""
        deadline = self.clock() + self.settings.deadline_s
        await asyncio.gather(*(self._one(asset, timestamp, deadline) for asset in self.settings.assets))

    def behind(self) -> bool:
        """Whether an answer of now would be fresher with newer prices. May be called from any thread."""
        now = int(self.now())
        return any(self._behind(asset, now) for asset in self.settings.assets)

    async def freshen(self) -> None:
        """Bring the market up to date if it is behind, for as long as patience allows."""
        deadline = self.clock() + self.settings.patience_s + RESERVE_S
        await self._freshen(self.settings.assets, int(self.now()), deadline)

    def ages(self) -> dict[str, float]:
        """Return the age of each asset's newest price, seconds; infinite where there is none."""
        at = int(self.now())
        return {asset: self._market.age(asset, at) for asset in self.settings.assets}

    def _from_table(self, checked: Checked) -> Answer | None:
        if checked.timestamp is None or not checked.assets:
            return Answer(checked.timestamp, refused=checked.refused)
        found = {}
        for asset in checked.assets:
            entry = self._table.get((asset, checked.timestamp))
            if entry is None or entry[1] != self._market.changes or self._behind(asset, checked.timestamp):
                return None
            found[asset] = entry[0]
        for _ in found:
            self._metrics.cache("memory", "hit")
        return Answer(checked.timestamp, found, checked.refused, hit=True)

    def _behind(self, asset: str, timestamp: int) -> bool:
        """Whether newer prices than those in the window could make the answer fresher."""
        newest = self._market.windows[asset].newest
        return newest is None or newest < min(timestamp, int(self.now())) - self.settings.fresh_s

    async def _freshen(self, assets: Sequence[str], timestamp: int, deadline: float) -> None:
        """Bring the market up to date if an asset is behind, for as long as patience and the deadline allow."""
        if not any(self._behind(asset, timestamp) for asset in assets):
            return
        patience = min(self.settings.patience_s, deadline - self.clock() - RESERVE_S)
        if patience <= 0:
            return
        try:
            await asyncio.wait_for(self._market.refresh(min(timestamp, int(self.now())), patience), patience)
        except SourceError as error:
            self._metrics.error(error.kind)
        except asyncio.TimeoutError:
            self._metrics.error("patience")

    async def _one(self, asset: str, timestamp: int, deadline: float) -> AssetAnswer | RequestRefused:
        """Answer one asset, or tell why not."""
        at = min(timestamp, int(self.now()))
        age = max(0.0, self._market.age(asset, timestamp) - (timestamp - at))
        if age > self.settings.max_age_s:
            self._metrics.error("no_data")
            told = "there is no price" if age == float("inf") else f"the newest price is {age:.0f} s old"
            return RequestRefused(f"{told}; {self.settings.max_age_s:g} s at most are used")
        changes = self._market.changes
        forecast, model, trouble = await self._forecast(asset, timestamp, deadline)
        stale = age > self.settings.fresh_s
        reasons = [*([f"prices are {age:.0f} s old"] if stale else []), *([trouble] if trouble else [])]
        made = AssetAnswer(asset, widen(forecast, age) if stale else forecast, age, model, "; ".join(reasons))
        if not trouble:
            self._keep(made, timestamp, changes)
        return made

    def _keep(self, made: AssetAnswer, timestamp: int, changes: int) -> None:
        """Put an answer into the table, dropping the oldest entry of a full one."""
        self._table.pop((made.asset, timestamp), None)
        if len(self._table) >= KEPT:
            del self._table[next(iter(self._table))]
        self._table[made.asset, timestamp] = (made, changes)

    async def _forecast(self, asset: str, timestamp: int, deadline: float) -> tuple[Forecast, str, str]:
        """Return the forecast, the name of its model, and why it is not the model that was wanted, or ""."""
        try:
            return await self._by_model(asset, timestamp, deadline), self._model.name, ""
        except (ModelError, asyncio.TimeoutError) as error:
            reason = f"model failed: {error}" if isinstance(error, ModelError) else "model too slow"
            self._metrics.error(error.kind if isinstance(error, ModelError) else "model_slow")
            logger.warning("%s: %s: answered by %s", asset, reason, self._fallback.name)
        series = self._market.series(asset, timestamp - self._fallback.lookback_s, timestamp)
        return self._fallback.forecast(asset, timestamp, series), self._fallback.name, reason

    async def _by_model(self, asset: str, timestamp: int, deadline: float) -> Forecast:
        """Return the model's forecast from the cache, or have it made once for all who wait.

        :raises ModelError: the model failed, or gave no forecast.
        :raises asyncio.TimeoutError: it takes too long.
        """
        start = timestamp - self._model.lookback_s
        key = (self._model.name, asset, timestamp, self._market.version(asset, start, timestamp))
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        making = self._making.get(key)
        if making is None:
            making = asyncio.ensure_future(self._make(key, self._market.series(asset, start, timestamp)))
            self._making[key] = making
            making.add_done_callback(lambda done: self._made(key, done))
        # Shielded: one who gives up must not take the forecast from the others.
        return await asyncio.wait_for(asyncio.shield(making), max(0.001, deadline - self.clock() - RESERVE_S))

    def _made(self, key: Key, done: asyncio.Future[Forecast]) -> None:
        del self._making[key]
        if not done.cancelled():
            done.exception()  # seen, even if all who waited have given up

    async def _make(self, key: Key, series: Series) -> Forecast:
        """Have the model make a forecast, and keep it; given up after `deadline_s`, or a hung model kept its place.

        :raises ModelError: it failed, or gave no forecast.
        """
        _, asset, timestamp, _ = key
        began = self.clock()
        work = self._pool.run(self._model.kind, run_model, self._model, asset, timestamp, series.times, series.prices)
        try:
            made = check_forecast(asset, await asyncio.wait_for(work, self.settings.deadline_s), series.prices[-1])
        except ModelError:
            raise
        except Exception as error:  # whatever an operator's model raises
            raise ModelError(f"{type(error).__name__}: {error}") from error
        self._cache.put(key, made)
        self._metrics.forecast(asset, self._model.name, made, self.clock() - began)
        return made

    def _finish(self, front: str, request: Request, answer: Answer, began: float) -> None:
        """Count and log an answered request."""
        latency = self.clock() - began
        outcome = "none" if not answer.assets else "partial" if answer.refused else "full"
        self._metrics.request(front, outcome, latency)
        for asset, one in answer.assets.items():
            self._metrics.answer(asset, one.age_s, bool(one.degraded))
        self._log.record(front, request, answer, latency)
