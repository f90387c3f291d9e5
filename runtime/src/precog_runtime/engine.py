"""The one path from a request to its answer: check, market, cache, model, answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from precog_runtime.errors import NoPrices, RequestRefused, SourceError
from precog_runtime.forecaster import Made, Table
from precog_runtime.requests import Checked, check
from precog_runtime.settings import RESERVE_S
from precog_runtime.types import NEWEST, Answer, AssetAnswer, Request

if TYPE_CHECKING:
    from precog_runtime.forecaster import Forecaster
    from precog_runtime.log import PredictionLog
    from precog_runtime.market.market import Market
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings

logger = logging.getLogger(__name__)

Part = Made | RequestRefused  # of what is answered: that of one asset


class _Shared:
    """What is being made for all who ask the same.

    :ivar parts: what is made by now, by asset.
    :ivar making: ends when all are.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
        self.making: asyncio.Future[None]


class Engine:
    """Answers requests. All belongs to one event loop, but for what may be called from any thread: it says so.

    :param now: wall clock, seconds since the epoch.
    :param clock: the clock of deadlines and latencies, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        market: Market,
        forecaster: Forecaster,
        log: PredictionLog,
        metrics: Metrics,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.now = now
        self.clock = clock
        self._market = market
        self._forecaster = forecaster
        self._log = log
        self._metrics = metrics
        self._shared: dict[tuple[tuple[str, ...], int, int], _Shared] = {}
        self._table = Table()  # what `ready` answers from
        self._bugs: set[tuple[str, str]] = set()

    def ready(self, request: Request, front: str = "") -> Answer | None:
        """Answer at once from what is prepared; None if anything would have to be waited for or computed.

        From any thread.
        """
        began = self.clock()
        checked = check(request, self.settings, self.now())
        answer = self._from_table(checked)
        if answer is not None:
            self._finish(front, request, answer, began)
        return answer

    async def answer(self, request: Request, front: str = "") -> Answer:
        """Answer, from the last good data where newer can't be had in time. Never raises but for a bug.

        It returns before the request's deadline: what a fallback model takes is kept for it.
        """
        began = self.clock()
        checked = check(request, self.settings, self.now())
        answer = self._from_table(checked)
        if answer is None:
            answer = await self._fresh(checked, request.deadline)
        self._finish(front, request, answer, began)
        return answer

    def cut_off(self, request: Request, front: str, began: float) -> Answer:
        """Count and log a request whose answer is not waited for any longer, and return it. From any thread.

        :param began: when it came, on the engine's clock.
        """
        self._metrics.error("late")
        answer = Answer(None, refused={"": "the answer was not there in time"})
        self._finish(front, request, answer, began)
        return answer

    async def prepare(self, timestamp: int) -> None:
        """Make the forecasts for a timestamp, or NEWEST, from the data that there is, so that `ready` has them."""
        deadline = self.clock() + self.settings.deadline_s
        await self._all(self.settings.assets, timestamp, deadline, {}, ahead=True)

    def behind(self) -> bool:
        """Whether an answer of now would be fresher with newer prices. From any thread."""
        now = int(self.now())
        return any(self._behind(asset, now) for asset in self.settings.assets)

    async def freshen(self) -> None:
        """Bring the market up to date if it is behind, for as long as patience allows."""
        deadline = self.clock() + self.settings.patience_s * 2 + RESERVE_S
        await self._freshen(self.settings.assets, int(self.now()), deadline)

    @property
    def model(self) -> str:
        """The name of the model that makes the forecasts, unless it fails."""
        return self._forecaster.model.name

    def ages(self) -> dict[str, float]:
        """Return the age of each asset's newest price, seconds; infinite where there is none."""
        at = int(self.now())
        return {asset: self._market.age(asset, at) for asset in self.settings.assets}

    def _from_table(self, checked: Checked) -> Answer | None:
        if checked.timestamp is None or not checked.assets:
            return Answer(checked.timestamp, refused=checked.refused)
        at = self._at(checked.second)
        parts: list[Part] = []
        for asset in checked.assets:
            part = self._prepared(asset, checked.second, at)
            if part is None:
                return None
            parts.append(part)
        for _ in parts:
            self._metrics.cache("hit")
        return self._told(checked, parts, at, hit=True)

    def _prepared(self, asset: str, timestamp: int, at: int) -> Part | None:
        """Return what is made of an asset's answer, or why there is none, if nothing can better it now."""
        if self._behind(asset, at):
            return None
        made = self._table.get((asset, timestamp))
        if made is not None and made.changes == self._market.changes:
            return made
        try:
            self._newest(asset, timestamp)
        except NoPrices as refusal:
            return refusal
        return None

    async def _fresh(self, checked: Checked, deadline: float) -> Answer:
        """Answer from the newest prices that can be had in time."""
        await self._freshen(checked.assets, checked.second, deadline)
        parts = await self._made(checked.assets, checked.second, deadline)
        return self._told(checked, parts, self._at(checked.second))

    def _told(self, checked: Checked, parts: Iterable[Part], at: int, hit: bool = False) -> Answer:
        """Return the answer as it is at this moment: prices age while a forecast waits to be asked for."""
        found: dict[str, AssetAnswer] = {}
        refused = checked.refused
        for asset, part in zip(checked.assets, parts, strict=True):
            one = self._of_now(part, at)
            if isinstance(one, AssetAnswer):
                found[asset] = one
            else:
                self._metrics.error(one.kind)
                refused = {**refused, asset: str(one)}
        return Answer(checked.timestamp, found, refused, hit)

    def _of_now(self, part: Part, at: int) -> AssetAnswer | RequestRefused:
        if isinstance(part, RequestRefused):
            return part
        age_s = max(0.0, float(at - part.newest))
        return self._too_old(age_s) if age_s > self.settings.max_age_s else part.answer(age_s, self.settings.fresh_s)

    async def _made(self, assets: tuple[str, ...], timestamp: int, deadline: float) -> list[Part]:
        """Make the answers of assets once for all who ask the same of the same prices.

        A burst waits for one fetch, and goes on. Who can't wait any longer gets what is there by then.
        """
        shared = self._share(assets, timestamp)
        await asyncio.wait({shared.making}, timeout=max(0.0, deadline - self.clock() - RESERVE_S))
        return [shared.parts.get(asset) or self._late(asset, timestamp) for asset in assets]

    def _share(self, assets: tuple[str, ...], timestamp: int) -> _Shared:
        key = (assets, timestamp, self._market.changes)
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = _Shared()
            # Not by the deadline of who happens to be the first.
            theirs = self.clock() + self.settings.deadline_s
            shared.making = asyncio.ensure_future(self._all(assets, timestamp, theirs, shared.parts))
            shared.making.add_done_callback(lambda _done: self._shared.pop(key))
        return shared

    async def _all(
        self, assets: Sequence[str], timestamp: int, deadline: float, parts: dict[str, Part], ahead: bool = False
    ) -> None:
        async def make(asset: str) -> None:
            parts[asset] = await self._one(asset, timestamp, deadline, ahead)

        await asyncio.gather(*map(make, assets))

    async def _one(self, asset: str, timestamp: int, deadline: float, ahead: bool) -> Part:
        """Make what answers one asset, or tell why it can't be; a bug in it must not harm the others."""
        try:
            newest = self._newest(asset, timestamp)
            made = await self._forecaster.forecast(asset, timestamp, newest, deadline, ahead)
        except RequestRefused as refusal:
            return refusal
        except Exception as error:
            return self._broken(asset, error)
        if not made.trouble:
            self._table.keep(timestamp, made)
        return made

    def _late(self, asset: str, timestamp: int) -> Part:
        """Make what answers one asset at once."""
        try:
            return self._forecaster.late(asset, timestamp, self._newest(asset, timestamp))
        except RequestRefused as refusal:
            return refusal
        except Exception as error:
            return self._broken(asset, error)

    def _broken(self, asset: str, error: Exception) -> RequestRefused:
        kind = type(error).__name__
        self._metrics.error("internal")
        if (asset, kind) not in self._bugs:  # a traceback for each request would bury the log
            self._bugs.add((asset, kind))
            logger.error("%s: failed by a bug. The like of it is not logged again", asset, exc_info=error)
        return RequestRefused(f"a bug: {kind}")

    def _at(self, timestamp: int) -> int:
        """Return the second by which the prices' age is told: now, or the timestamp where that counts and is past."""
        now = int(self.now())
        return now if timestamp == NEWEST else min(timestamp, now)

    def _newest(self, asset: str, timestamp: int) -> int:
        """Return the second of the newest price that an answer may be made from.

        :raises NoPrices: there is none, or it is too old.
        """
        newest = self._market.newest(asset, timestamp)
        if newest is None:
            raise self._too_old(math.inf)
        age_s = float(self._at(timestamp) - newest)
        if age_s > self.settings.max_age_s:
            raise self._too_old(age_s)
        return newest

    def _too_old(self, age_s: float) -> NoPrices:
        told = "there is no price" if age_s == math.inf else f"the newest price is {age_s:.0f} s old"
        return NoPrices(f"{told}; {self.settings.max_age_s:g} s at most are used")

    def _behind(self, asset: str, at: int) -> bool:
        """Whether newer prices than those in the window could make the answer fresher, and may come."""
        newest = self._market.windows[asset].newest
        return (newest is None or newest < at - self.settings.fresh_s) and asset not in self._market.absent

    async def _freshen(self, assets: Sequence[str], timestamp: int, deadline: float) -> None:
        """Bring the market up to date if an asset is behind, for as long as patience and half of the time left allow.

        The other half is the model's.
        """
        at = self._at(timestamp)
        if not any(self._behind(asset, at) for asset in assets):
            return
        patience = min(self.settings.patience_s, (deadline - self.clock() - RESERVE_S) / 2)
        if patience <= 0:
            return
        try:
            await asyncio.wait_for(self._market.refresh(at, patience), patience)
        except SourceError as error:
            self._metrics.error(error.kind)
        except asyncio.TimeoutError:
            self._metrics.error("patience")
        except Exception as error:  # a bug in it must not keep back the prices that there are
            self._broken("newer prices", error)

    def _finish(self, front: str, request: Request, answer: Answer, began: float) -> None:
        """Count and log an answered request."""
        latency = self.clock() - began
        outcome = "none" if not answer.assets else "partial" if answer.refused else "full"
        self._metrics.request(front, outcome, latency)
        for asset, one in answer.assets.items():
            self._metrics.answer(asset, one.age_s, bool(one.degraded))
            if one.price_time is not None and answer.timestamp is not None:
                self._metrics.lead(asset, one.price_time - answer.timestamp)
        self._log.record(front, request, answer, latency)
