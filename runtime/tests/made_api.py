"""A small Coin Metrics API on a real socket, whose answers a test can bend."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any

import orjson
from aiohttp import web

START = 1_795_464_000  # 2026-11-23T20:00:00Z, when there is nothing else to choose a time by
BASES = {"btc": 87_000.0, "eth": 2_800.0, "tao_bittensor": 300.0}

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


def price(asset: str, second: int) -> float:
    return round(BASES[asset] * (1 + (second % 600) / 1e5), 6)


def row(asset: str, second: int, value: object = None) -> dict[str, Any]:
    moment = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
    return {"asset": asset, "time": moment, "ReferenceRateUSD": str(price(asset, second)) if value is None else value}


def body(rows: list[Any], **more: object) -> bytes:
    return orjson.dumps({"data": rows, **more})


class Api:
    """`async with Api() as api`: serves at `api.url` until the end.

    :ivar published: the newest second that is published; None for all.
    :ivar lacking: (asset, second) that are not published.
    :ivar refused: assets that are answered with HTTP 400.
    :ivar faults: the next requests are answered by these, one each.
    :ivar arrivals: when requests came, on the loop's clock.
    :ivar queries: what they asked.
    :ivar page_rows: rows in a page at most.
    """

    def __init__(self) -> None:
        self.published: int | None = None
        self.lacking: set[tuple[str, int]] = set()
        self.refused: set[str] = set()
        self.faults: deque[Fault] = deque()
        self.arrivals: list[float] = []
        self.queries: list[dict[str, str]] = []
        self.page_rows = 10_000
        self.delay_s = 0.0
        self.url = ""
        self.connections: set[object] = set()

    async def __aenter__(self) -> Api:
        app = web.Application()
        app.router.add_get("/v4/timeseries/asset-metrics", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v4"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.arrivals.append(asyncio.get_running_loop().time())
        self.queries.append(dict(request.query))
        self.connections.add(request.transport)
        if self.faults:
            return await self.faults.popleft()(request)
        await asyncio.sleep(self.delay_s)
        return self.answer(request)

    def answer(self, request: web.Request) -> web.Response:
        query = request.query
        assets = query["assets"].split(",")
        for asset in assets:
            if asset in self.refused or asset not in BASES:
                message = f"Bad parameter 'assets'. Value '{asset}' is not supported."
                return web.json_response({"error": {"type": "bad_parameter", "message": message}}, status=400)
        start, end = (
            int(datetime.fromisoformat(query[name][:19] + "+00:00").timestamp()) for name in ("start_time", "end_time")
        )
        if self.published is not None:
            end = min(end, self.published)
        seconds = [(asset, second) for asset in assets for second in range(start, end + 1)]
        rows = [row(*each) for each in seconds if each not in self.lacking]
        at = int(query.get("next_page_token", "0"))
        step = min(int(query["page_size"]), self.page_rows)
        more = {"next_page_token": str(at + step)} if at + step < len(rows) else {}
        return web.Response(body=body(rows[at : at + step], **more), content_type="application/json")


def status(code: int, headers: dict[str, str] | None = None, text: str = "") -> Fault:
    """Return a fault that answers with a status."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers=headers, text=text)

    return answer


def raw(content: bytes) -> Fault:
    """Return a fault that answers 200 with that body."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json")

    return answer


async def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    transport_of(request).close()
    return web.Response()


async def drop_in_body(request: web.Request) -> web.StreamResponse:
    """Close the connection in the midst of the body."""
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    await response.write(b'{"data":[')
    transport_of(request).close()
    return response


async def hang(_: web.Request) -> web.StreamResponse:
    """Answer long after anyone waits for it."""
    await asyncio.sleep(30)
    return web.Response()


async def drip(request: web.Request) -> web.StreamResponse:
    """Give a byte now and then, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.02)


def transport_of(request: web.Request) -> asyncio.Transport:
    if not isinstance(request.transport, asyncio.Transport):
        raise RuntimeError("no connection")
    return request.transport
