"""aiohttp's server with bounded connections, which doesn't log a traceback for what a caller does wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from precog_runtime.connections import Stage

if TYPE_CHECKING:
    from precog_runtime.connections import Connections

# What a caller that goes away or breaks HTTP raises in our code.
CALLERS_FAULTS = (ConnectionError, HttpProcessingError, RequestPayloadError)


class Handler(web.RequestHandler):
    """One connection.

    :param connections: the book that it is noted in.
    :param refused: is told of each request that breaks HTTP.
    """

    def __init__(
        self, server: web.Server, connections: Connections, refused: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(server, **options)
        self._connections, self._refused = connections, refused
        self._expecting = True  # whether the caller owes a request, or the rest of one

    def stage(self) -> Stage:
        """Return what the connection waits for."""
        waits = self._waiter is not None and not self._waiter.done()
        if waits:
            return Stage.SENDING if self._expecting else Stage.IDLE
        request = self._current_request
        return Stage.BUSY if request is None or request.content.is_eof() else Stage.SENDING

    def drop(self) -> None:
        """Close the connection at once."""
        transport = self.transport
        self.force_close()
        if isinstance(transport, asyncio.Transport):
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what the caller sends."""
        self._expecting = True
        super().data_received(data)
        self._connections.moved(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer."""
        self._expecting = False
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the answer to a request that failed; a caller's fault is status 400 and counted, and not logged."""
        if not isinstance(exc, CALLERS_FAULTS):
            return super().handle_error(request, status, exc, message)
        self._refused()
        if request.writer.output_size > 0:
            raise ConnectionError("part of an answer is sent already")
        detail = _detail(message or str(exc))
        told = f"the request is not valid HTTP, or its body does not match its Content-Encoding: {detail}"
        response = web.json_response({"error": told}, status=400)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **options: Any) -> None:
        """Log what failed, unless it's the caller's fault."""
        if not isinstance(options.get("exc_info"), CALLERS_FAULTS):
            super().log_exception(*args, **options)


class Server(web.Server):
    """Makes the handlers of an application's connections."""

    def __init__(self, made: web.Server, connections: Connections, refused: Callable[[], None], **options: Any) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory)
        self._bound: dict[str, Any] = {"connections": connections, "refused": refused, **options}

    def __call__(self) -> Handler:
        """Return the handler of a new connection."""
        return Handler(self, loop=asyncio.get_running_loop(), **self._bound)


class Runner(web.AppRunner):
    """Runs an application whose connections are bounded.

    :param connections: the book of them.
    :param refused: is told of each request that breaks HTTP.
    :param shutdown_timeout: for requests that are being answered at the end, seconds.
    :param options: for aiohttp's RequestHandler.
    """

    def __init__(
        self,
        application: web.Application,
        connections: Connections,
        refused: Callable[[], None],
        shutdown_timeout: float,
        **options: Any,
    ) -> None:
        super().__init__(application, shutdown_timeout=shutdown_timeout)
        self._bounds = (connections, refused, options)

    async def _make_server(self) -> web.Server:
        connections, refused, options = self._bounds
        return Server(await super()._make_server(), connections, refused, **options)


def _detail(text: str) -> str:
    """Return what one of aiohttp's messages says, without the status that it may begin with, on one line."""
    return " ".join(text.removeprefix("400, message:").split())[:200]
