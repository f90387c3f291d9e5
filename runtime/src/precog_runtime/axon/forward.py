"""The drop-in for upstream's `--forward_function`: a module with `forward = drop_in()` in it.

The runtime has a thread and an event loop of its own, so that prices are kept up to date while the axon's loop is busy.
What is ready is answered in the axon's own loop; only what has to be waited for is handed over.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any

import bittensor

from precog_runtime import connections, service
from precog_runtime.axon import answering
from precog_runtime.axon.connections import bound_connections
from precog_runtime.axon.headers import fix_headers
from precog_runtime.axon.hotkey import keep_hotkey
from precog_runtime.axon.refusals import count_refusals, counted
from precog_runtime.axon.screen import screen_callers
from precog_runtime.axon.verify import announced, caller, verify_strictly
from precog_runtime.errors import SettingError
from precog_runtime.runtime import Runtime, open_runtime, spare_collections
from precog_runtime.settings import load
from precog_runtime.types import Answer, Request

if TYPE_CHECKING:
    from precog_runtime.settings import Settings
    from precog_runtime.types import PriceSource

logger = logging.getLogger(__name__)

Forward = Callable[..., Awaitable[Any]]

FRONT = "axon"
MARGIN_S = 1.0  # of a caller's time-out, kept for the way there and back
LONGEST_S = 120.0  # a longer time-out is none that a validator sets
ANNOUNCED_S = 0.1  # one announcement is enough for the requests of so many seconds
METRICS_SHARE = 8  # who asks for metrics may use one file descriptor in so many; the axon's callers need theirs
NOT_STRICT = (
    "requests can't be verified strictly: Axon.default_verify of this bittensor is not the one known from 9.9 to 9.12, "
    "which answers requests without a signature. Install one of these versions (python_env_lock: upstream has one), or "
    "accept its own verification with drop_in(strict=False)"
)
STOP_S = 1.0  # pm2 kills a miner 1.6 s after it told it to stop


class Background:
    """A runtime in a thread of its own, from when it is made to the interpreter's exit.

    :param source: where prices come from; without one, what the settings say.
    :raises RuntimeFault: the settings, the model or the port of the metrics can't be used.
    """

    def __init__(self, settings: Settings, source: PriceSource | None = None) -> None:
        self._settings, self._source = settings, source
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="precog-runtime", daemon=True)
        self._thread.start()
        self._opened.wait()
        if self._failure:
            raise self._failure
        self._announced = float("-inf")
        announced.append(self.expect)
        counted.append(self.runtime.metrics.refused)
        atexit.register(self.close)

    async def answer(self, request: Request) -> Answer:
        """Answer, from any event loop, by the request's deadline; without anything if the runtime's thread is late."""
        engine = self.runtime.engine
        began = engine.clock()
        ready = engine.ready(request, FRONT)
        if ready is not None:
            return ready
        handed_over = asyncio.run_coroutine_threadsafe(engine.answer(request, FRONT), self._loop)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(handed_over), request.deadline - engine.clock())
        except asyncio.TimeoutError:
            return engine.cut_off(request, FRONT, began)
        except asyncio.CancelledError:  # who asked has gone
            engine.cut_off(request, FRONT, began)
            raise

    def expect(self) -> None:
        """Have newer prices fetched for a request that is on its way, if they could better its answer; never waits."""
        engine = self.runtime.engine
        now = engine.clock()
        if now - self._announced >= ANNOUNCED_S and engine.behind():
            self._announced = now
            asyncio.run_coroutine_threadsafe(engine.freshen(), self._loop)

    def close(self) -> None:
        """End the runtime; what is not done after a second is left undone."""
        if self.expect in announced:
            announced.remove(self.expect)
            counted.remove(self.runtime.metrics.refused)
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(STOP_S)
        atexit.unregister(self.close)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            if self._opened.is_set():
                logger.exception("the runtime ended")
        self._opened.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        async with AsyncExitStack() as stack:
            self.runtime: Runtime = await stack.enter_async_context(open_runtime(self._settings, self._source))
            if self._settings.metrics_port:
                from precog_runtime.serve import listening

                # Who scrapes metrics comes again; the end is waited for no longer than STOP_S.
                port, share = self._settings.metrics_port, METRICS_SHARE
                served = listening(self.runtime, "127.0.0.1", port, parting_s=0, share=share)
                await stack.enter_async_context(served)
            spare_collections()
            self._opened.set()
            reporting = asyncio.ensure_future(answering.report(self._settings.metrics_port))
            await self._ended.wait()
            reporting.cancel()
            service.notify("STOPPING=1")


def drop_in(settings: Settings | None = None, source: PriceSource | None = None, strict: bool = True) -> Forward:
    """Start a runtime, apply the fixes to bittensor, and return `forward(synapse, cm)` as upstream calls it.

    :param settings: without them, those of the environment (PRECOG_RUNTIME_...).
    :param source: where prices come from; without one, what the settings say.
    :param strict: verify strictly in every axon that is made from now on.
    :raises RuntimeFault: the settings, the model or the port of the metrics can't be used; or verification is to be
        strict, and can't be in this bittensor.
    """
    _let_us_be_heard()
    if strict and not verify_strictly():
        raise SettingError(NOT_STRICT)
    background = Background(settings or load(), source)
    runtime = background.runtime
    bound_connections(lambda: connections.bounded(runtime.settings, runtime.metrics))
    fix_headers()
    keep_hotkey()
    screen_callers()
    count_refusals()
    return forward_by(background)


def forward_by(background: Background) -> Forward:
    """Return what fills a synapse in: predictions and intervals, empty where there is no answer. It never raises."""

    async def forward(synapse: Any, _cm: object = None) -> Any:
        predictions: dict[str, float] = {}
        intervals: dict[str, list[float]] = {}
        try:
            engine = background.runtime.engine
            answer = await background.answer(asked(synapse, engine.clock(), engine.settings.deadline_s))
            predictions, intervals = answer.predictions(), answer.intervals()
        except Exception:
            background.runtime.metrics.error("internal")
            logger.exception("a request was not answered")
        synapse.predictions = predictions
        synapse.intervals = intervals
        return synapse

    return forward


def asked(synapse: Any, clock: float, deadline_s: float) -> Request:
    """Return what a synapse asks.

    :param clock: now, on the engine's clock, seconds.
    :param deadline_s: time for a caller who names none.
    """
    allowed = getattr(synapse, "timeout", None)
    if allowed is None or not 0 < allowed <= LONGEST_S:
        allowed = deadline_s
    return Request(
        timestamp=synapse.timestamp,
        assets=synapse.assets,
        deadline=clock + allowed - min(MARGIN_S, allowed / 4),
        caller=caller.get() or getattr(synapse.dendrite, "hotkey", None) or "",
    )


def _let_us_be_heard() -> None:
    """Let our warnings through bittensor's logging, which mutes every logger that it does not know."""
    ours = __name__.partition(".")[0]
    bittensor.logging.register_primary_logger(ours)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(f"{ours}."):
            logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger(ours).setLevel(logging.WARNING)
