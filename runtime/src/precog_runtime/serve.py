"""`precog-runtime serve`: the path as a lean HTTP server, for load tests, the fleet's gate, and who needs no axon."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import json
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from precog_runtime import __version__, connections, http_server, openapi, service, timestamps
from precog_runtime.errors import SettingError
from precog_runtime.metrics import CONTENT_TYPE
from precog_runtime.options import add_settings, given_settings, port_number
from precog_runtime.requests import LONGEST_NAME
from precog_runtime.runtime import Runtime, open_runtime, spare_collections
from precog_runtime.types import Answer, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from precog_runtime.settings import Settings

FRONT = "serve"
LARGEST_BODY = 64 * 1024  # bytes; a request with 32 assets has less than 1 KiB
KEYS = ("timestamp", "assets")  # of a request's body
GRACE_S = 5.0  # for requests that are being answered when the server is told to end
PARTING_S = 2.0  # for clients that keep connections open, to come over each of them once more
LINGER_S = 0.3  # for requests on their way over those that were opened meanwhile
FIRST_PRICES_S = 5.0  # a source that doesn't answer holds up the start no longer
BACKLOG = 1024  # connections that wait to be accepted
INHERITED_BACKLOG = 65535  # no bound of ours: the socket's owner has one, and the kernel (net.core.somaxconn)


def body(answer: Answer) -> dict[str, Any]:
    """Return an answer as it goes out as JSON."""
    return {
        "timestamp": None if answer.timestamp is None else timestamps.text(answer.timestamp),
        "predictions": answer.predictions(),
        "intervals": answer.intervals(),
        "age_s": {name: one.age_s for name, one in answer.assets.items()},
        "price_time": {
            name: timestamps.text(one.price_time) for name, one in answer.assets.items() if one.price_time is not None
        },
        "models": {name: one.model for name, one in answer.assets.items()},
        "degraded": {name: one.degraded for name, one in answer.assets.items() if one.degraded},
        "refused": dict(answer.refused),
    }


def _unknown_key(asked: dict[str, Any]) -> str:
    """Return what is wrong with the keys of a request: a misspelled one must not be answered as if it were left out."""
    for key in asked:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Use {' and '.join(map(repr, KEYS))}"
            return f"the body has an unknown key {key[:LONGEST_NAME]!r}. {hint}"
    return ""


def status(answer: Answer, settings: Settings) -> int:
    """Return the HTTP status: 200 if anything is answered, 422 if it was wrong to ask, 503 if there are no prices."""
    if answer.assets:
        return 200
    return 503 if any(name in settings.assets for name in answer.refused) else 422


class Server:
    """The server's handlers.

    :ivar ending: each answer closes its connection, so that the client sends the next request over a new one.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.ending = False
        self._runtime = runtime
        self._settings = runtime.settings

    def application(self) -> web.Application:
        """Return the application with its routes."""
        application = web.Application(client_max_size=LARGEST_BODY)
        application.router.add_post("/predict", self.predict)
        application.router.add_get("/healthz", self.healthz)
        application.router.add_get("/readyz", self.readyz)
        application.router.add_get("/metrics", self.metrics)
        application.router.add_get("/monitor", self.monitor)
        application.router.add_get("/openapi.json", self.openapi)
        application.on_response_prepare.append(self._close_if_ending)
        return application

    async def predict(self, http: web.Request) -> web.Response:
        """Answer `{"timestamp": ..., "assets": [...]}`; without a timestamp it is now, without assets all of them."""
        try:
            asked = orjson.loads(await http.read())
        except orjson.JSONDecodeError as error:
            return _json(400, {"error": f"the body is no JSON: {error}"})
        if not isinstance(asked, dict):
            return _json(400, {"error": 'the body is no JSON object. Send {"timestamp": ..., "assets": [...]}'})
        if unknown := _unknown_key(asked):
            return _json(400, {"error": unknown})
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
        """Tell whether to send requests here: 200 if every asset can be answered, 404 if it is drained, else 503."""
        ages = self._runtime.engine.ages()
        draining = self.ending or service.draining()
        trouble = self._runtime.trouble()
        ready = not draining and not trouble and all(age <= self._settings.max_age_s for age in ages.values())
        shown = {asset: None if age == float("inf") else age for asset, age in ages.items()}
        told = {"ready": ready, "draining": draining, "trouble": trouble, "age_s": shown, "version": __version__}
        told["model"] = self._runtime.engine.model
        return _json(404 if draining else 200 if ready else 503, told)

    async def metrics(self, _http: web.Request) -> web.Response:
        """Return the metrics as Prometheus scrapes them."""
        return web.Response(body=self._runtime.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def monitor(self, _http: web.Request) -> web.Response:
        """Return the monitor's summary of the host and of this process."""
        monitor = self._runtime.monitor
        if monitor is None:
            return _json(404, {"error": "the monitor is off: monitor_s is 0. Set how often to sample, in seconds"})
        return _json(200, {"every_s": self._settings.monitor_s, "figures": monitor.summary()})

    async def openapi(self, _http: web.Request) -> web.Response:
        """Return the description of all that is answered here."""
        return _json(200, openapi.document())

    async def _close_if_ending(self, _http: web.BaseRequest, response: web.StreamResponse) -> None:
        if self.ending:
            response.force_close()
            response.headers["Connection"] = "close"  # the headers are made already when this is called


@asynccontextmanager
async def listening(
    runtime: Runtime,
    host: str,
    port: int,
    inherited: socket.socket | None = None,
    parting_s: float | None = None,
    share: int = connections.SHARE,
) -> AsyncIterator[str]:
    """Serve, and yield the URL; at the end answer what is under way.

    :param port: 0 lets the kernel choose.
    :param inherited: a listening socket to serve instead. Whoever handed it over goes on listening at the end, and
        connections that are not accepted by then wait there for the next process.
    :param parting_s: how long clients that keep connections open have to come over them once more; PARTING_S if not
        given.
    :param share: connections may use one of so many of the process's file descriptors.
    :raises SettingError: the address can't be listened at.
    """
    server = Server(runtime)
    settings, metrics = runtime.settings, runtime.metrics
    runner = http_server.Runner(
        server.application(),
        connections.bounded(settings, metrics, share),
        lambda: metrics.error("bad_http"),
        shutdown_timeout=GRACE_S,
        access_log=None,
        lingering_time=settings.receive_s,
    )
    await runner.setup()
    try:
        site: web.BaseSite
        if inherited is None:
            site = web.TCPSite(runner, host, port, backlog=BACKLOG)
        else:
            site, host = web.SockSite(runner, inherited, backlog=INHERITED_BACKLOG), inherited.getsockname()[0]
        try:
            await site.start()
        except OSError as error:
            raise SettingError(
                f"can't listen at {host}:{port}: {error.strerror}. Give another --host or --port"
            ) from error
        chosen = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
    finally:
        server.ending = True
        # A connection closed at the moment at which its client sends a request loses that request. So they are taken
        # from clients by answers, and new ones are accepted until then: nobody waits for the next process meanwhile.
        await _let_go(runner, PARTING_S if parting_s is None else parting_s)
        for each in runner.sites:
            await each.stop()
        await _let_go(runner, LINGER_S)
        await runner.cleanup()


async def _let_go(runner: web.AppRunner, most_s: float) -> None:
    """Wait until the connections that are open now are closed, which they are at their next answer; idle ones stay."""
    loop = asyncio.get_running_loop()
    until, open_now = loop.time() + most_s, _connections(runner)
    while open_now & _connections(runner) and loop.time() < until:
        await asyncio.sleep(0.01)


def _connections(runner: web.AppRunner) -> set[web.RequestHandler]:
    return set(runner.server.connections) if runner.server else set()


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; what is being answered then is answered.

    :raises SettingError: the address, or the socket that systemd hands over, can't be listened at.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    inherited = service.inherited()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime(settings))
        if inherited:
            # Who asks meanwhile waits in the socket's queue, and gets an answer instead of a 503.
            await _first_prices(runtime, ended)
        if ended.is_set():
            return
        url = await stack.enter_async_context(listening(runtime, host, port, inherited))
        print(json.dumps({"listening": url}), flush=True)
        await _first_prices(runtime, ended)
        spare_collections()
        service.notify("READY=1", f"STATUS=Listening at {url}")
        reporting = asyncio.ensure_future(service.report_alive())
        await ended.wait()
        reporting.cancel()
        service.notify("STOPPING=1", "STATUS=Answering what is under way")


async def _first_prices(runtime: Runtime, ended: asyncio.Event) -> None:
    """Wait for the first prices; no longer than for one attempt to get them, FIRST_PRICES_S, or the end."""
    waiting = {asyncio.ensure_future(event.wait()) for event in (runtime.attempted, ended)}
    await asyncio.wait(waiting, timeout=FIRST_PRICES_S, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=port_number, default=8092, help="0: the kernel's choice (default: %(default)s)")
    parser.epilog = "Started by a .socket unit of systemd, it listens at that socket, whatever --host and --port say."
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
