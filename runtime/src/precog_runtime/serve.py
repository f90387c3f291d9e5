"""`precog-runtime serve`: the path as a lean HTTP server, for load tests, the fleet's gate, and who needs no axon."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from precog_runtime import __version__, timestamps
from precog_runtime.errors import SettingError
from precog_runtime.metrics import CONTENT_TYPE
from precog_runtime.options import add_settings, given_settings
from precog_runtime.runtime import Runtime, open_runtime
from precog_runtime.types import Answer, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precog_runtime.settings import Settings

FRONT = "serve"
LARGEST_BODY = 64 * 1024  # bytes; a request with 32 assets has less than 1 KiB
GRACE_S = 5.0  # for requests that are being answered when the server is told to end


def body(answer: Answer) -> dict[str, Any]:
    """Return an answer as it goes out as JSON."""
    return {
        "timestamp": None if answer.timestamp is None else timestamps.text(answer.timestamp),
        "predictions": answer.predictions(),
        "intervals": answer.intervals(),
        "age_s": {name: one.age_s for name, one in answer.assets.items()},
        "models": {name: one.model for name, one in answer.assets.items()},
        "degraded": {name: one.degraded for name, one in answer.assets.items() if one.degraded},
        "refused": dict(answer.refused),
    }


def status(answer: Answer, settings: Settings) -> int:
    """Return the HTTP status: 200 if anything is answered, 422 if it was wrong to ask, 503 if there are no prices."""
    if answer.assets:
        return 200
    return 503 if any(name in settings.assets for name in answer.refused) else 422


class Server:
    """The server's handlers."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._settings = runtime.settings

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_post("/predict", self.predict)
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/metrics", self.metrics)
        return application

    async def predict(self, http: web.Request) -> web.Response:
        """Answer `{"timestamp": ..., "assets": [...]}`; without a timestamp it is now, without assets all of them."""
        try:
            asked = orjson.loads(await http.read())
        except orjson.JSONDecodeError as error:
            return _json(400, {"error": f"the body is no JSON: {error}"})
        if not isinstance(asked, dict):
            return _json(400, {"error": 'the body is no JSON object. Send {"timestamp": ..., "assets": [...]}'})
        engine = self._runtime.engine
        request = Request(
            timestamp=asked.get("timestamp"),
            assets=asked.get("assets", self._settings.assets),
            deadline=engine.clock() + self._settings.deadline_s,
            caller=http.remote or "",
        )
        answer = engine.ready(request, FRONT) or await engine.answer(request, FRONT)
        return _json(status(answer, self._settings), body(answer))

    async def healthz(self, _http: web.Request) -> web.Response:
        """Tell that the server runs."""
        return _json(200, {"status": "ok", "version": __version__})

    async def readyz(self, _http: web.Request) -> web.Response:
        """Tell whether every asset can be answered: 200 or 503, with the age of each asset's newest price."""
        ages = self._runtime.engine.ages()
        ready = all(age <= self._settings.max_age_s for age in ages.values())
        shown = {asset: None if age == float("inf") else age for asset, age in ages.items()}
        return _json(200 if ready else 503, {"ready": ready, "age_s": shown, "version": __version__})

    async def metrics(self, _http: web.Request) -> web.Response:
        """Return the metrics as Prometheus scrapes them."""
        return web.Response(body=self._runtime.exposition(), headers={"Content-Type": CONTENT_TYPE})


@asynccontextmanager
async def listening(runtime: Runtime, host: str, port: int) -> AsyncIterator[str]:
    """Serve, and yield the URL.

    :param port: 0 lets the kernel choose.
    :raises SettingError: the address can't be listened at.
    """
    runner = web.AppRunner(Server(runtime).application(), access_log=None, shutdown_timeout=GRACE_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        try:
            await site.start()
        except OSError as error:
            raise SettingError(
                f"can't listen at {host}:{port}: {error.strerror}. Give another --host or --port"
            ) from error
        chosen = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
    finally:
        await runner.cleanup()


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then is answered."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(settings))
        url = await stack.enter_async_context(listening(runtime, host, port))
        print(json.dumps({"listening": url}), flush=True)
        await ended.wait()


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8092, help="port; 0 lets the kernel choose (default: %(default)s)")
    add_settings(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    use_uvloop()
    asyncio.run(serve(given_settings(arguments), arguments.host, arguments.port))
    return 0


def use_uvloop() -> None:
    """Make event loops uvloop's, where there is one (not on PyPy)."""
    if sys.implementation.name == "cpython":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def _json(code: int, content: dict[str, Any]) -> web.Response:
    return web.Response(status=code, body=orjson.dumps(content), content_type="application/json")
