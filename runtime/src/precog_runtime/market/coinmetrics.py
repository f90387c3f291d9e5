"""Prices from the Coin Metrics API: GET /timeseries/asset-metrics, metric ReferenceRateUSD, one value a second.

See https://docs.coinmetrics.io/api/v4. The API's key is part of each request's URL, so no URL and no exception of the
HTTP library, which may quote one, gets into an error message, a traceback or the log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import orjson
import tenacity
from yarl import URL

from precog_runtime import timestamps
from precog_runtime.errors import RateLimited, RequestRefused, SourceError
from precog_runtime.market.budget import Budget
from precog_runtime.market.window import ordered

if TYPE_CHECKING:
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings
    from precog_runtime.types import Floats, Ints, Series

logger = logging.getLogger(__name__)

METRIC = "ReferenceRateUSD"
PAGE_ROWS = 10_000  # the most that the API gives
LARGEST_BODY = 16 << 20  # bytes; a full page has 1 MB
THREAD_BODY = 200_000  # bytes, about 2000 rows: a larger page is parsed in a thread, so that the event loop goes on
REFUSED_S = 600.0  # an asset that the API refuses is left out for so long
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 2.0  # back-off between attempts, with full jitter
KEEP_ALIVE_S = 60.0  # an idle connection, more than the time between two polls
CONNECTIONS = 8
WHOLE_SECONDS = frozenset({"Z", ".000Z", ".000000Z", ".000000000Z"})


class _Passing(SourceError):
    """A failure that another attempt may not meet."""


class _Throttled(RateLimited):
    """HTTP 429: another attempt is worth while if its turn comes in time."""


class _AssetRefused(SourceError):
    """HTTP 400 or 403: the API has no such asset, or not for us."""


@dataclass(frozen=True)
class Page:
    """The usable rows of one answer, in its order.

    :ivar codes: shape (n,), which of the assets asked for.
    :ivar times: shape (n,), seconds since the epoch.
    :ivar prices: shape (n,), USD.
    :ivar bad: how many rows could not be used.
    :ivar next_token: of the page that follows, "" if none does.
    """

    codes: Ints
    times: Ints
    prices: Floats
    bad: int
    next_token: str


class CoinMetrics:
    """The API as a source of prices. Belongs to one event loop.

    :param heard: called with the headers of each answer, and how many seconds it took.
    """

    def __init__(
        self, settings: Settings, metrics: Metrics, heard: Callable[[Mapping[str, str], float], None] | None = None
    ) -> None:
        self._heard = heard
        self._settings = settings
        self._metrics = metrics
        self._url = URL(settings.api_url.rstrip("/") + "/timeseries/asset-metrics")
        self._budget = Budget(settings.api_requests, settings.api_period_s)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._refused_until: dict[str, float] = {}

    async def fetch(self, assets: Sequence[str], start: int, end: int, timeout_s: float) -> Mapping[str, Series]:
        """Return the prices from `start` to `end`, all pages of them; an asset that the API refuses is left out.

        :raises SourceError: not all came within `timeout_s` seconds, retries included, or the API refuses it all.
        :raises RateLimited: there is no turn for a request within that time.
        """
        now = asyncio.get_running_loop().time()
        asked = [asset for asset in assets if self._refused_until.get(asset, now) <= now]
        if not asked:
            raise SourceError(f"the API refuses {', '.join(assets)}; check the setting assets")
        try:
            return await self._all_pages(asked, start, end, now + timeout_s)
        except _AssetRefused:
            if len(asked) == 1:
                raise
        return await self._one_by_one(asked, start, end, now + timeout_s)

    async def close(self) -> None:
        """Close the connections; safe to call twice."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _one_by_one(self, assets: Sequence[str], start: int, end: int, deadline: float) -> dict[str, Series]:
        """Fetch each asset alone, to find the refused ones and leave them out from now on."""
        answers = await asyncio.gather(
            *(self._all_pages([asset], start, end, deadline) for asset in assets), return_exceptions=True
        )
        found: dict[str, Series] = {}
        errors: dict[str, BaseException] = {}
        for asset, answer in zip(assets, answers, strict=True):
            if isinstance(answer, BaseException):
                errors[asset] = answer
            else:
                found.update(answer)
        # Where all are refused, it is not for what they are: the next fetch asks for all of them again.
        if not found:
            raise next(iter(errors.values()))
        for asset, error in errors.items():
            if isinstance(error, _AssetRefused):
                self._refused_until[asset] = asyncio.get_running_loop().time() + REFUSED_S
                self._metrics.error("asset_refused")
                logger.warning("%s is left out for %.0f s: %s", asset, REFUSED_S, error)
            elif not isinstance(error, SourceError):
                raise error
        return found

    async def _all_pages(self, assets: Sequence[str], start: int, end: int, deadline: float) -> dict[str, Series]:
        params = {
            "assets": ",".join(assets),
            "metrics": METRIC,
            "frequency": "1s",
            "start_time": timestamps.text(start),
            "end_time": timestamps.text(end),
            "page_size": str(PAGE_ROWS),
            **({"api_key": self._settings.api_key} if self._settings.api_key else {}),
        }
        pages: list[Page] = []
        tokens = {""}
        while True:
            page = await self._page(params, assets, start, end, deadline)
            pages.append(page)
            if not page.next_token:
                break
            if page.next_token in tokens:
                raise SourceError(f"{self._where()} gives the same next_page_token again and again")
            tokens.add(page.next_token)
            params["next_page_token"] = page.next_token
        codes = np.concatenate([page.codes for page in pages])
        times = np.concatenate([page.times for page in pages])
        prices = np.concatenate([page.prices for page in pages])
        return {asset: ordered(times[codes == code], prices[codes == code]) for code, asset in enumerate(assets)}

    async def _page(
        self, params: Mapping[str, str], assets: Sequence[str], start: int, end: int, deadline: float
    ) -> Page:
        """Fetch a page, with as many attempts as there is time for."""
        loop = asyncio.get_running_loop()

        async def attempt() -> Page:
            body = await self._request(params, deadline)
            if len(body) > THREAD_BODY:
                return await asyncio.to_thread(self._parsed, body, assets, start, end)
            return self._parsed(body, assets, start, end)

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type((_Passing, _Throttled)),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_DELAY_S, max=LONGEST_DELAY_S),
            stop=lambda state: loop.time() + state.upcoming_sleep >= deadline,
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _parsed(self, body: bytes, assets: Sequence[str], start: int, end: int) -> Page:
        try:
            page = parse(body, assets, start, end)
        except ValueError as error:
            self._metrics.error("garbage_page")
            raise _Passing(f"{self._where()} answers garbage: {error}") from error
        for _ in range(page.bad):
            self._metrics.error("bad_row")
        return page

    async def _request(self, params: Mapping[str, str], deadline: float) -> bytes:
        """Make one request when its turn comes; return the answer's body."""
        loop = asyncio.get_running_loop()
        async with self._budget.acquire(deadline - loop.time()):
            began = loop.time()
            limit_s = min(self._settings.api_timeout_s, deadline - began)
            if limit_s <= 0:
                raise SourceError("no time is left for another request")
            outcome, trouble = "ok", ""
            try:
                status, headers, body = await self._get(params, limit_s)
            except asyncio.TimeoutError:
                outcome, trouble = "timeout", f"does not answer within {limit_s:.1f} s"
            except (aiohttp.ClientError, OSError) as error:
                outcome, trouble = "dropped", _cause(error)
            else:
                outcome = _outcome(status)
        self._metrics.api(outcome, loop.time() - began)
        # Out of the except clauses: the exceptions of the HTTP library, which may quote the URL, end there.
        if trouble:
            raise _Passing(f"{self._where()} {trouble}")
        if status == 200:
            return body
        raise self._refusal(status, headers, body)

    async def _get(self, params: Mapping[str, str], limit_s: float) -> tuple[int, Mapping[str, str], bytes]:
        # Without ceil_threshold, aiohttp rounds longer limits up to whole seconds.
        timeout = aiohttp.ClientTimeout(total=limit_s, ceil_threshold=math.inf)
        session, began = self._connected(), time.monotonic()
        # A redirect would be a request outside the budget.
        async with session.get(self._url, params=params, timeout=timeout, allow_redirects=False) as response:
            if self._heard:
                self._heard(response.headers, time.monotonic() - began)
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > LARGEST_BODY:
                    raise aiohttp.ClientPayloadError(f"more than {LARGEST_BODY >> 20} MB")
            return response.status, response.headers, bytes(body)

    def _connected(self) -> aiohttp.ClientSession:
        if self._closed:
            raise SourceError("the connection to the API was closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(connector=connector, headers={"Accept": "application/json"})
            # aiohttp by itself repeats a GET whose connection is lost: past the budget. The attempts are ours.
            self._session._retry_connection = False
        return self._session

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> SourceError:
        """Return the error that an answer other than 200 stands for."""
        what = f"{self._where()} answers HTTP {status}"
        if status == 429:
            reset_s = _reset_s(headers, self._settings.api_period_s)
            self._budget.told(reset_s)
            return _Throttled(f"{what}: no request for {reset_s:g} s", reset_s)
        if status in (400, 403):
            return _AssetRefused(f"{what}: {self._message(body)}")
        if status >= 500 or status == 408:
            return _Passing(what)
        hint = "check the setting api_key" if status == 401 else "check the setting api_url"
        return SourceError(f"{what}; {hint}")

    def _message(self, body: bytes) -> str:
        """Return what the API says of an error, without our key should it be quoted there."""
        try:
            message = str(orjson.loads(body)["error"]["message"])
        except (ValueError, LookupError, TypeError):
            return "it does not say why"
        if self._settings.api_key:
            message = message.replace(self._settings.api_key, "***")
        return re.sub(r"api_key=[^&\s]*", "api_key=***", message)[:200]

    def _where(self) -> str:
        return f"{self._url.host}:{self._url.port}"


def parse(body: bytes, assets: Sequence[str], start: int, end: int) -> Page:
    """Return the usable rows of a page: of the assets asked for, in the range asked for, with a price above 0.

    :raises ValueError: it is no page.
    """
    page = orjson.loads(body)
    if not isinstance(page, dict) or not isinstance(page.get("data"), list):
        raise ValueError('it is no object with a list "data"')
    token = page.get("next_page_token") or ""
    if not isinstance(token, str):
        raise ValueError("next_page_token is no text")
    rows = page["data"]
    code_of = {asset: code for code, asset in enumerate(assets)}
    try:
        codes, times, prices = _columns(rows, code_of)
    except (LookupError, TypeError, ValueError, OverflowError):
        codes, times, prices = _columns_of_odd_rows(rows, code_of)
    usable = (codes >= 0) & (times >= start) & (times <= end) & np.isfinite(prices) & (prices > 0)
    bad = len(rows) - int(usable.sum())
    if bad:
        codes, times, prices = codes[usable], times[usable], prices[usable]
    return Page(codes, times, prices, bad, token)


def _columns(rows: list[Any], code_of: Mapping[str, int]) -> tuple[Ints, Ints, Floats]:
    """Return codes, times and prices of rows that are all as they should be; raises if one is not."""
    texts: list[str] = [row["time"] for row in rows]
    values = [row[METRIC] for row in rows]
    # All assets have the same seconds, so each is parsed once.
    distinct = list(dict.fromkeys(texts))
    if not {text[19:] for text in distinct} <= WHOLE_SECONDS or not set(map(type, values)) <= {str, float, int}:
        raise ValueError("odd rows")
    seconds = np.array([text[:19] for text in distinct], "datetime64[s]").astype(np.int64).tolist()
    second_of = dict(zip(distinct, seconds, strict=True))
    count = len(rows)
    codes = np.fromiter((code_of.get(row["asset"], -1) for row in rows), np.int64, count)
    times = np.fromiter(map(second_of.__getitem__, texts), np.int64, count)
    return codes, times, np.fromiter(map(float, values), np.float64, count)


def _columns_of_odd_rows(rows: list[Any], code_of: Mapping[str, int]) -> tuple[Ints, Ints, Floats]:
    """Return codes, times and prices row by row: the code of one that can't be read is -1."""
    read = [_row(row, code_of) for row in rows]
    codes, times, prices = zip(*read, strict=True)
    return np.array(codes, np.int64), np.array(times, np.int64), np.array(prices, np.float64)


def _row(row: Any, code_of: Mapping[str, int]) -> tuple[int, int, float]:
    try:
        value = row[METRIC]
        if isinstance(row["time"], str) and type(value) in (str, float, int):
            return code_of.get(row["asset"], -1), timestamps.parse(row["time"]), float(value)
    except (LookupError, TypeError, ValueError, OverflowError, RequestRefused):
        pass
    return -1, 0, math.nan


def _outcome(status: int) -> str:
    if status == 200:
        return "ok"
    if status == 429:
        return "rate_limited"
    return "server_error" if status >= 500 else "refused"


def _reset_s(headers: Mapping[str, str], period_s: float) -> float:
    """Return after how many seconds a 429 allows the next request, by its header."""
    try:
        reset_s = float(headers.get("x-ratelimit-reset", headers.get("retry-after", "")))
    except ValueError:
        return period_s
    return reset_s if 0 <= reset_s < math.inf else period_s


def _cause(error: aiohttp.ClientError | OSError) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"can't be connected to: {error.os_error.strerror or type(error.os_error).__name__}"
    return f"dropped the connection ({type(error).__name__})"
