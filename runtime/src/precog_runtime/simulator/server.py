"""The market data API's endpoint for reference rates, with simulated prices, over HTTP on this machine.

It answers `GET /v4/timeseries/asset-metrics` as the real one does (docs.coinmetrics.io/api/v4), for the metric
ReferenceRateUSD at 1 s only, under a limit of requests by address (a sliding window, told in x-ratelimit headers).
`GET /control` tells the faults. `POST /control` with a JSON object changes some of them; as that stops every miner
that asks here, it takes a token (`Authorization: Bearer TOKEN`), and is off without one.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import numpy as np
import orjson
from aiohttp import web

from precog_runtime import __version__, timestamps
from precog_runtime.errors import RequestRefused, SettingError
from precog_runtime.simulator import faults as fault
from precog_runtime.simulator.faults import Decision, Faults
from precog_runtime.simulator.prices import ASSETS, check_regime, lots, prices
from precog_runtime.types import Ints

PATH = "/v4/timeseries/asset-metrics"
METRIC = "ReferenceRateUSD"
TOKEN = "PRECOG_SIMULATOR_TOKEN"  # of the environment: everyone on the host can read a command line
PAGE, LARGEST_PAGE = 100, 10_000  # rows, the API's default and limit
HISTORY_S = 30 * 86400  # how far back the prices go where no start is asked for
STREAM_ROWS = 300_000  # the most rows of an answer without pages
ADDRESSES = 1024  # how many are remembered before idle ones are forgotten
WITH_EFFECT = {
    "assets",
    "metrics",
    "frequency",
    "start_time",
    "end_time",
    "start_inclusive",
    "end_inclusive",
    "timezone",
    "page_size",
    "paging_from",
    "next_page_token",
    "sort",
    "limit_per_asset",
    "format",
    "ignore_unsupported_errors",
}
# Parameters of the real API that make no difference to reference rates at 1 s.
WITHOUT_EFFECT = {"api_key", "status", "min_confirmations", "null_as_zero", "pretty", "ignore_forbidden_errors"}


@dataclass(frozen=True)
class Config:
    """How a simulated API behaves.

    :ivar host: address to listen on.
    :ivar port: 0 lets the system choose.
    :ivar seed: of the prices and of the faults.
    :ivar regime: see simulator/prices.py.
    :ivar assets: what is known; any other asset is a bad parameter.
    :ivar latency_ms: how long each request takes, milliseconds; latency of the faults comes on top.
    :ivar publish_delay_s: a price appears so many seconds after its second.
    :ivar rate_limit: how many requests an address has in `rate_period_s` seconds; 0 means any number.
    :ivar faults: what goes wrong at first; /control changes it.
    :ivar token: what POST /control has to bring; "" turns it off.
    :ivar now: tells the wall clock, seconds since the epoch: no later price exists.
    """

    host: str = "127.0.0.1"
    port: int = 0
    seed: int = 1
    regime: str = "mixed"
    assets: tuple[str, ...] = tuple(ASSETS)
    latency_ms: float = 0.0
    publish_delay_s: float = 0.0
    rate_limit: int = 10
    rate_period_s: float = 6.0
    faults: Faults = field(default_factory=Faults)
    token: str = field(default="", repr=False)
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        check_regime(self.regime)
        if not self.assets or not all(self.assets):
            raise SettingError(f"assets is {self.assets!r}: name at least one, for instance btc")
        bounds: dict[str, tuple[float, float]] = {
            "port": (0, 65535),
            "latency_ms": (0, 600_000),
            "publish_delay_s": (0, 86400),
            "rate_limit": (0, 1_000_000),
            "rate_period_s": (0.001, 86400),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise SettingError(f"{name} is {value!r}: give a number from {least:g} to {most:g}")


@dataclass(frozen=True)
class Query:
    """What a request asks for, checked.

    :ivar start: first second, included.
    :ivar end: last second, included.
    :ivar skip: how many places of the whole answer earlier pages have covered.
    """

    assets: tuple[str, ...]
    start: int
    end: int
    page_size: int = PAGE
    from_end: bool = True
    by_time: bool = False
    stream: bool = False
    skip: int = 0

    @property
    def places(self) -> int:
        """How many rows there are if each second has its price."""
        return len(self.assets) * max(0, self.end - self.start + 1)


class BadParameter(Exception):
    """A parameter that the API refuses with status 400; the message is the API's."""


def parse(given: Mapping[str, str], assets: tuple[str, ...], newest: int) -> Query:
    """Return what a request asks for.

    :param given: the query's parameters.
    :param assets: the known ones.
    :param newest: the newest second that is published.
    :raises BadParameter: a parameter is unknown, missing, or has a value that can't be used.
    """
    for name in given:
        if name not in WITH_EFFECT | WITHOUT_EFFECT:
            raise BadParameter(f"Bad parameter '{name}'. It is not supported by this endpoint at frequency '1s'.")
    lenient = _chosen(given, "ignore_unsupported_errors", "false", "true") == "true"
    _listed(given, "metrics", (METRIC,), lenient)
    _chosen(given, "timezone", "UTC")
    if given.get("frequency") != "1s":
        raise _bad("frequency", given.get("frequency", ""))
    from_end = _chosen(given, "paging_from", "end", "start") == "end"
    start, end = _range(given, newest)
    wanted = given.get("limit_per_asset")
    if wanted is not None:
        limit = _whole("limit_per_asset", wanted, 1, 2**31)
        start, end = (max(start, end - limit + 1), end) if from_end else (start, min(end, start + limit - 1))
    page_size = _whole("page_size", given.get("page_size", str(PAGE)), 1, LARGEST_PAGE)
    skip = 0
    if given.get("next_page_token"):
        skip, start, end = _from_token(given["next_page_token"])
    query = Query(
        _listed(given, "assets", assets, lenient),
        start,
        end,
        page_size,
        from_end,
        _chosen(given, "sort", "asset", "time") == "time",
        _chosen(given, "format", "json", "json_stream") == "json_stream",
        skip,
    )
    if query.stream and query.places > STREAM_ROWS:
        raise BadParameter(f"Bad parameter 'format'. json_stream gives {STREAM_ROWS} rows at most: ask for less time.")
    return query


def _bad(name: str, value: str) -> BadParameter:
    return BadParameter(f"Bad parameter '{name}'. Value '{value}' is not supported.")


def _chosen(given: Mapping[str, str], name: str, *choices: str) -> str:
    value = given.get(name, choices[0])
    if value not in choices:
        raise _bad(name, value)
    return value


def _whole(name: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 12 and least <= int(value) <= most):
        raise _bad(name, value)
    return int(value)


def _listed(given: Mapping[str, str], name: str, known: tuple[str, ...], lenient: bool) -> tuple[str, ...]:
    asked = tuple(dict.fromkeys(part.strip() for part in given.get(name, "").split(",") if part.strip()))
    if not asked:
        raise BadParameter(f"Missing parameter '{name}'.")
    if asked == ("*",):
        return known
    unknown = [each for each in asked if each not in known]
    if unknown and not lenient:
        raise _bad(name, unknown[0])
    return tuple(each for each in asked if each in known)


def _range(given: Mapping[str, str], newest: int) -> tuple[int, int]:
    end = newest
    if "end_time" in given:
        second, whole = _moment("end_time", given["end_time"])
        exclusive = _chosen(given, "end_inclusive", "true", "false") == "false"
        end = min(newest, second - (exclusive and whole))
    start = end - HISTORY_S
    if "start_time" in given:
        second, whole = _moment("start_time", given["start_time"])
        exclusive = _chosen(given, "start_inclusive", "true", "false") == "false"
        start = second + (exclusive or not whole)
    return start, end


def _moment(name: str, value: str) -> tuple[int, bool]:
    """Return the second that a time lies in, and whether it is its very beginning."""
    text = value.strip().replace(" ", "+")  # a plus sign of an offset that was not escaped
    if len(text) == 8 and text.isdigit():
        text = f"{text[:4]}-{text[4:6]}-{text[6:]}"
    try:
        second = timestamps.parse(text)
    except RequestRefused as error:
        raise _bad(name, value) from error
    fraction = text.partition(".")[2]
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    return second, not digits.strip("0")


def _token(skip: int, query: Query) -> str:
    return base64.urlsafe_b64encode(f"{skip}.{query.start}.{query.end}".encode()).decode()


def _from_token(token: str) -> tuple[int, int, int]:
    try:
        skip, start, end = (int(part) for part in base64.urlsafe_b64decode(token).split(b"."))
        if skip < 0:
            raise ValueError("no place")
    except (ValueError, binascii.Error) as error:
        raise _bad("next_page_token", token) from error
    return skip, start, end


class RateLimit:
    """So many requests in a sliding window, by address.

    :param requests: how many; 0 means any number.
    :param period_s: length of the window, seconds.
    """

    def __init__(self, requests: int, period_s: float) -> None:
        self._requests, self._period_s = requests, period_s
        self._taken: dict[str, deque[float]] = {}

    def take(self, address: str, now: float) -> tuple[bool, dict[str, str]]:
        """Return whether a request is allowed, and the headers that tell.

        :param now: seconds on any clock that doesn't go back.
        """
        if not self._requests:
            return True, {}
        if len(self._taken) > ADDRESSES:
            self._taken = {each: when for each, when in self._taken.items() if when[-1] > now - self._period_s}
        taken = self._taken.setdefault(address, deque())
        while taken and taken[0] <= now - self._period_s:
            taken.popleft()
        allowed = len(taken) < self._requests
        if allowed:
            taken.append(now)
        return allowed, {
            "x-ratelimit-limit": f"{self._requests};w={self._period_s:g}",
            "x-ratelimit-remaining": str(self._requests - len(taken)),
            "x-ratelimit-reset": str(max(1, math.ceil(taken[0] + self._period_s - now))),
            "x-ratelimit-plan": "community",
        }


class Server:
    """A running simulated API.

    :ivar url: its root, ending in /v4.
    :ivar port: where it listens.
    :ivar faults: the current ones; may be set at any time.
    :ivar requests: how many requests for prices have come.
    :ivar outcomes: how many of them ended how: "answer", "limited", "bad parameter", or an action of a fault.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.faults = config.faults
        self.requests = 0
        self.outcomes: Counter[str] = Counter()
        self.url = ""
        self.port = 0
        self._limit = RateLimit(config.rate_limit, config.rate_period_s)
        application = web.Application()
        application.router.add_get(PATH, self._serve)
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/control", self._control)
        application.router.add_post("/control", self._control)
        # A request that hangs ends with its connection: nothing is kept for a client that has gone.
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)

    async def _start(self) -> None:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._config.host, self._config.port, backlog=1024).start()
        except OSError:
            await self._runner.cleanup()
            raise
        self.port = int(self._runner.addresses[0][1])
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        self.url = f"http://{host}:{self.port}/v4"

    async def close(self) -> None:
        """Stop listening and end all connections; safe to call twice."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        """Tell that the server runs, whatever faults it plays; costs none of the rate limit."""
        return web.json_response({"status": "ok", "version": __version__})

    async def _control(self, request: web.Request) -> web.Response:
        if request.method == "POST":
            refused = self._not_allowed(request)
            if refused:
                return refused
            try:
                changes = json.loads(await request.text())
                if not isinstance(changes, dict):
                    raise SettingError('Give a JSON object of faults, like {"drop": 0.5}')
                self.faults = fault.merged(self.faults, changes)
            except (ValueError, SettingError) as error:
                return _error(400, "bad_parameter", str(error))
        return web.json_response(fault.settings(self.faults))

    def _not_allowed(self, request: web.Request) -> web.Response | None:
        """Return the answer to who may not change faults."""
        if not self._config.token:
            return _error(403, "forbidden", f"POST /control is off: start the simulator with a token in {TOKEN}")
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self._config.token}".encode()):
            return _error(401, "unauthorized", f"Send 'Authorization: Bearer TOKEN', with the token in {TOKEN}")
        return None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        allowed, headers = self._limit.take(request.remote or "", asyncio.get_running_loop().time())
        decision = (
            fault.decide(self.faults, self._config.seed, self.requests) if allowed else Decision(action="limited")
        )
        delay = self._config.latency_ms / 1000 + decision.delay_s
        if delay:
            await asyncio.sleep(delay)
        try:
            response = await self._respond(request, decision)
        except BadParameter as error:
            self.outcomes["bad parameter"] += 1
            response = _error(400, "bad_parameter", str(error))
        else:
            self.outcomes[decision.action] += 1
        if not response.prepared:
            for name, value in headers.items():
                response.headers.setdefault(name, value)
            response.headers["Date"] = formatdate(self._config.now(), usegmt=True)
        return response

    async def _respond(self, request: web.Request, decision: Decision) -> web.StreamResponse:
        action = decision.action
        if action == "hang":
            await asyncio.Event().wait()  # until the client goes, or the server closes
        if action == "drop":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if action in ("429", "limited"):
            response = _error(429, "too_many_requests", "Too many requests. See the x-ratelimit headers.")
            if action == "429":
                reset = max(1, math.ceil(self.faults.reset_s))
                response.headers.update({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(reset)})
            return response
        if action == "500":
            return _error(500, "internal_server_error", "Internal server error.")
        body, kind = self._answer(request, action)
        if action == "cut":
            return await _cut(request, body)
        return web.Response(body=body, content_type=kind)

    def _answer(self, request: web.Request, action: str) -> tuple[bytes, str]:
        newest = math.floor(self._config.now() - self._config.publish_delay_s)
        query = parse(request.query, self._config.assets, newest)
        size = query.places if query.stream else query.page_size
        rows, covered = self._rows(query, query.skip, size, newest)
        # A page is never empty unless it is the last one: the real client stops at an empty page.
        while not rows and covered < query.places:
            rows, covered = self._rows(query, covered, size, newest)
        spoiled = fault.spoiled_rows(action, rows, METRIC, _shifted) if action in fault.GARBAGE else rows
        if query.stream:
            return fault.spoiled_body(action, b"".join(orjson.dumps(row) + b"\n" for row in spoiled))
        answer: dict[str, Any] = {"data": spoiled}
        if covered < query.places:
            token = _token(covered, query)
            answer["next_page_token"] = token
            answer["next_page_url"] = str(request.url.update_query(next_page_token=token))
        return fault.spoiled_body(action, orjson.dumps(answer))

    def _rows(self, query: Query, skip: int, size: int, newest: int) -> tuple[list[fault.Row], int]:
        """Return the rows at a page's places, and how many places are covered with it."""
        covered = min(query.places, skip + size)
        first, last = (query.places - covered, query.places - skip) if query.from_end else (skip, covered)
        seconds = max(1, query.end - query.start + 1)
        if query.by_time:
            return self._rows_by_time(query, first, last, newest), covered
        rows: list[fault.Row] = []
        for asset, at in zip(query.assets, range(0, query.places, seconds), strict=False):
            begin, end = query.start + max(0, first - at), query.start + min(seconds, last - at)
            rows += [row for _, row in self._asset_rows(asset, begin, end, newest)]
        return rows, covered

    def _rows_by_time(self, query: Query, first: int, last: int, newest: int) -> list[fault.Row]:
        width = max(1, len(query.assets))
        begin, end = query.start + first // width, query.start - (-last // width)
        placed = [
            ((second - query.start) * width + at, row)
            for at, asset in enumerate(query.assets)
            for second, row in self._asset_rows(asset, begin, end, newest)
        ]
        placed.sort(key=lambda each: each[0])
        return [row for place, row in placed if first <= place < last]

    def _asset_rows(self, asset: str, begin: int, end: int, newest: int) -> list[tuple[int, fault.Row]]:
        """Return an asset's rows, with their seconds, from second `begin` up to, and without, `end`."""
        series = prices(asset, begin, end - 1, self._config.seed, self._config.regime)
        shown = np.ones(len(series), dtype=bool)
        if self.faults.late:
            late = lots(self._config.seed, asset, begin, end - 1) < self.faults.late
            shown = ~late | (series.times <= newest - self.faults.late_s)
        times, values = series.times[shown], series.prices[shown].tolist()
        return [
            (second, {"asset": asset, "time": moment, METRIC: repr(price)})
            for second, moment, price in zip(times.tolist(), _times(times), values, strict=True)
        ]


def _times(seconds: Ints) -> list[str]:
    return [f"{moment}.000000000Z" for moment in seconds.astype("datetime64[s]").astype(str).tolist()]


def _shifted(row: fault.Row, seconds: int) -> str:
    return _times(np.array([timestamps.parse(row["time"]) + seconds]))[0]


def _error(status: int, kind: str, message: str) -> web.Response:
    return web.json_response({"error": {"type": kind, "message": message}}, status=status)


async def _cut(request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


async def start(config: Config) -> Server:
    """Start a simulated API; the caller closes it.

    :raises OSError: it can't listen there.
    """
    server = Server(config)
    await server._start()
    return server
