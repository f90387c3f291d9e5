"""Bounded connections for the axon: uvicorn, which it serves with, limits neither their number nor slow callers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn import config
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from precog_runtime.connections import Connections, Stage

logger = logging.getLogger(__name__)


def bound_connections(make: Callable[[], Connections]) -> bool:
    """Bound the connections of all axons that are started from now on; return whether that could be done.

    :param make: makes the book of one server's connections.
    """
    protocols = getattr(config, "HTTP_PROTOCOLS", {})
    if "auto" not in protocols:
        logger.warning("this uvicorn is not known: the axon's connections are not bounded (docs/runtime/axon.md)")
        return False
    protocols["auto"] = _bounded(make)
    return True


def _bounded(make: Callable[[], Connections]) -> type[asyncio.Protocol]:
    """Return the class of bounded connections, those of one server with one book."""
    books: WeakKeyDictionary[Any, Connections] = WeakKeyDictionary()

    class Bounded(AutoHTTPProtocol):  # type: ignore[misc]
        """One connection."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if self.server_state not in books:
                books[self.server_state] = make()
            self._book = books[self.server_state]
            self._expecting = True  # whether the caller owes a request, or the rest of one

        def stage(self) -> Stage:
            """Return what the connection waits for."""
            if self.cycle is None or self.cycle.response_complete:
                return Stage.SENDING if self._expecting else Stage.IDLE
            return Stage.SENDING if self.cycle.more_body else Stage.BUSY

        def drop(self) -> None:
            """Close the connection at once."""
            self.transport.abort()

        def connection_made(self, transport: Any) -> None:
            """Note the connection."""
            super().connection_made(transport)
            self._book.opened(self)

        def connection_lost(self, exc: Exception | None) -> None:
            """Forget the connection."""
            self._book.closed(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            """Take what the caller sends."""
            self._expecting = True
            super().data_received(data)
            self._book.moved(self)

        def on_response_complete(self) -> None:
            """Take note of an answer that is sent."""
            self._expecting = False
            super().on_response_complete()

    return Bounded
