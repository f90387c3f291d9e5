"""A bound on the connections of a server, and a time limit for callers that send slowly.

Neither aiohttp's server nor uvicorn limits how long a caller may take to send a request, or how many connections may be
open. A few hundred half-sent requests would use up the process's file descriptors, and nobody else would be answered.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from precog_runtime.metrics import Metrics
    from precog_runtime.settings import Settings

LOOK_S = 1.0  # how often to look for slow callers, at most
ANSWER_S = 150.0  # an answer takes no longer (`deadline_s` is 120 at most): its caller doesn't read it
SHARE = 2  # connections use one of so many file descriptors at most; the rest is for prices, files and workers


class Stage(enum.Enum):
    """What a connection waits for.

    SENDING: the caller has not sent all of a request. IDLE: the caller may send the next one. BUSY: we answer.
    """

    SENDING = enum.auto()
    IDLE = enum.auto()
    BUSY = enum.auto()


class Connection(Protocol):
    """What is needed of a server's connection."""

    def stage(self) -> Stage:
        """Return what it waits for."""

    def drop(self) -> None:
        """Close it at once."""


class Connections:
    """The open connections of a server; all belongs to the server's event loop.

    :param most: how many may be open. One more closes the slowest: first those that are SENDING, then IDLE ones, by how
        long they have been; if all are BUSY, the new one.
    :param receive_s: how long a caller may take to send a request, seconds.
    :param count: takes the kind of error for each connection that is closed.
    """

    def __init__(self, most: int, receive_s: float, count: Callable[[str], None]) -> None:
        self.most = most
        self._receive_s, self._count = receive_s, count
        # By stage, in the order in which they came to it.
        self._since: dict[Stage, dict[Connection, float]] = {stage: {} for stage in Stage}
        self._stages: dict[Connection, Stage] = {}
        self._looking: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._stages)

    def opened(self, connection: Connection) -> None:
        """Take note of a new connection; where it is one too many, close the slowest."""
        self._note(connection, Stage.SENDING)
        if self._looking is None:
            self._look_later()
        while len(self) > self.most:
            self._close(self._slowest(connection), "crowded")

    def moved(self, connection: Connection) -> None:
        """Take note of the stage of a connection that something came in by."""
        if connection in self._stages:
            stage = connection.stage()
            if stage is Stage.BUSY:  # with another request than before, maybe
                self.closed(connection)
            self._note(connection, stage)

    def closed(self, connection: Connection) -> None:
        """Forget a connection; safe to call twice."""
        stage = self._stages.pop(connection, None)
        if stage is not None:
            del self._since[stage][connection]

    def _note(self, connection: Connection, stage: Stage) -> None:
        if self._stages.get(connection) is not stage:
            self.closed(connection)
            self._stages[connection] = stage
            self._since[stage][connection] = asyncio.get_running_loop().time()

    def _slowest(self, new: Connection) -> Connection:
        if not self._since[Stage.IDLE]:
            self._refresh(Stage.BUSY)  # some may have been answered
        for stage in (Stage.SENDING, Stage.IDLE):
            for connection in self._since[stage]:
                if connection is not new:
                    return connection
        return new

    def _refresh(self, stage: Stage) -> None:
        for connection in list(self._since[stage]):
            self._note(connection, connection.stage())

    def _look_later(self) -> None:
        every_s = min(LOOK_S, self._receive_s / 2)
        self._looking = asyncio.get_running_loop().call_later(every_s, self._look)

    def _look(self) -> None:
        """Close connections that have been at one stage for too long."""
        now = asyncio.get_running_loop().time()
        for stage, most_s in ((Stage.SENDING, self._receive_s), (Stage.BUSY, ANSWER_S)):
            self._refresh(stage)
            for connection, since in list(self._since[stage].items()):
                if now - since < most_s:
                    break
                self._close(connection, "slow_caller")
        self._looking = None
        if self._stages:
            self._look_later()

    def _close(self, connection: Connection, kind: str) -> None:
        self.closed(connection)
        self._count(kind)
        connection.drop()


def bounded(settings: Settings, metrics: Metrics, share: int = SHARE) -> Connections:
    """Return the book of a server's connections, with the bounds that the settings and the process's limits give.

    :param share: they may use one of so many of the process's file descriptors.
    """
    most = settings.max_connections
    if resource is not None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit != resource.RLIM_INFINITY:
            most = min(most, max(1, limit // share))
    return Connections(most, settings.receive_s, metrics.error)
